"""The file of a ledger: it is read again when it has changed, and what it was before is not kept."""

import gc

from cld_core.run.events import Crashed
from cld_core.run.history import History
from cld_core.run.ledger import Ledger


def test_a_ledger_that_grows_is_read_again_and_its_earlier_histories_are_forgotten(tmp_path):
    ledger = Ledger(tmp_path / "jobs.jsonl")
    for number in range(20):
        ledger.append(Crashed(job_id=f"1_{number}", restart=0, code=1))
        assert len(ledger.history().crashes) == number + 1
    assert ledger.history() is ledger.history(), "an unchanged file is not read again"
    gc.collect()
    mine = [it for it in gc.get_objects() if type(it) is History and "1_0" in it.crashes]
    assert len(mine) == 1
