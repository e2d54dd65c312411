"""What can be done with runs: submit, resume, cancel, ask for their status. Policy; nothing is
printed here."""
