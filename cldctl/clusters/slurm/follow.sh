# Part of every batch script (script.py): what follows a start of its job. It runs on the node, outside of any container,
# when the ranks have ended. cldctl_ask, defined before, runs `cldctl.jobs.aftermath`, which decides.

cldctl_job=${SLURM_ARRAY_JOB_ID:+${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID}
cldctl_job=${cldctl_job:-$SLURM_JOB_ID}
cldctl_restart=${SLURM_RESTART_COUNT:-0}
cldctl_files=$cldctl_logs/$cldctl_job
cldctl_wish=${cldctl_files}_wish_$cldctl_restart
cldctl_log=${cldctl_files}_0_log.err
# The log goes on from earlier starts, whose notices are not about this one.
cldctl_begin=$(stat -L -c %s "$cldctl_log" 2>/dev/null || echo 0)
rm -f "$cldctl_files"_wish_*
# Jobs compute from it how much of the limit is used, whatever the time of day is on their node.
export CLDCTL_BOOT_S=$(cut -d. -f1 /proc/uptime 2>/dev/null)

cldctl_say() { echo "job $cldctl_job $*" >&2; }

if [ -e "${cldctl_files}_cancelled" ]; then
    cldctl_say "was cancelled: nothing is done"
    exit 0
fi

# Lets Python import the code of the run, if only this user can have written it.
cldctl_import() {
    local folder
    for folder in "$cldctl_logs" ${cldctl_code:+"$cldctl_code"}; do
        if [ -L "$folder" ] || [ ! -O "$folder" ] ||
            [ -n "$(find "$folder" -prune \( -perm -020 -o -perm -002 \))" ]; then
            echo "$folder: it is missing, or not only yours to write, and the job would run what is in it. chmod go-w, or" \
                "continue with the code of your checkout: cldctl resume $SLURM_JOB_NAME --update-code" >&2
            return 1
        fi
    done
    # A successor inherits it.
    if [ -n "$cldctl_code" ] && [[ ${PYTHONPATH-}: != "$cldctl_code":* ]]; then
        export PYTHONPATH="$cldctl_code${PYTHONPATH:+:$PYTHONPATH}"
    fi
    # How early the signal of the time limit comes tells it from that of a preemption.
    export PYTHONSAFEPATH=1 CLDCTL_SIGNAL_S=$cldctl_notice
}

# Runs $2... for at most $1 seconds. It ignores the SIGTERM that follows a requeue, which `timeout` alone passes on.
cldctl_within() {
    timeout --signal=KILL "$1" bash -c 'trap "" TERM; exec "$@"' bash "${@:2}"
}

# Whether a line of this start in the log matches $1.
cldctl_logged() {
    tail -c "+$((cldctl_begin + 1))" "$cldctl_log" 2>/dev/null | grep -q -e "$1"
}

# The value of $1 in the last answer of `scontrol show job`.
cldctl_shown() {
    printf ' %s \n' "$cldctl_answer" | sed -n "s/.* $1=\([^ ]*\) .*/\1/p"
}

# Calls a client of Slurm: 0 done, 1 refused, 2 no answer, 3 no client or configuration.
cldctl_call() {
    cldctl_answer=$(cldctl_within 20 "$@" 2>&1)
    local found=$?
    [ $found != 0 ] || return 0
    printf %s "$cldctl_answer" | grep -qiE "configuration (source|file)|SRV lookup failed|cannot stat file" && return 3
    case $found in
    137) cldctl_answer="$1 gave no answer within 20 s" && return 2 ;;
    126 | 127) cldctl_answer="there is no $1 on this node" && return 3 ;;
    esac
    printf %s "$cldctl_answer" | grep -qiE "$cldctl_away" && return 2
    return 1
}

# Whether the job has reached its time limit, by the last answer or the log.
cldctl_limit() {
    [ "$(cldctl_shown Reason)" = TimeLimit ] || cldctl_logged "DUE TO TIME LIMIT"
}

# Whether the job may start again, as `cldctl_call`. COMPLETING is a job that was cancelled or has reached its limit.
cldctl_look() {
    cldctl_state=
    if [ -e "${cldctl_files}_cancelled" ]; then cldctl_answer="it was cancelled" && return 1; fi
    cldctl_call scontrol --oneliner show job "$cldctl_job" || return $?
    # The next start reads why this one ended: a container may have no client.
    echo "$cldctl_answer" | grep -m1 JobId= >"${cldctl_files}_shown" 2>/dev/null
    cldctl_state=$(cldctl_shown JobState)
    case $cldctl_state in
    RUNNING) [ -n "$only" ] || return 0 ;;
    COMPLETING) ;;
    *) cldctl_answer="it is $cldctl_state" && return 1 ;;
    esac
    if ! cldctl_limit; then cldctl_answer="it is $cldctl_state" && return 1; fi
}

# One scontrol does everything: Slurm ends this script before a second one begins.
cldctl_requeue() {
    local nodes=$(cldctl_shown ExcNodeList) lines="requeue $cldctl_job\n"
    if [ "$delay" -gt 0 ]; then lines+="update jobid=$cldctl_job starttime=now+$delay\n"; fi
    if [ -n "$avoid$readmit" ]; then
        nodes=$({ [ "$nodes" = "(null)" ] || timeout 20 scontrol show hostnames "$nodes"; echo "$avoid" | tr , '\n'; } |
            grep -vxF -e "" $(printf ' -e %s' ${readmit//,/ } x,) | sort -u | paste -sd,)
        lines+="update jobid=$cldctl_job excnodelist=$nodes\n"
    fi
    cldctl_call scontrol < <(printf "$lines")
}

# Carries out the wish. Without an answer, it tries again for up to an hour, each time after a look at the job.
cldctl_carry_out() {
    local pause=2 end=$((SECONDS + 3600)) found
    while :; do
        cldctl_look
        found=$?
        if [ $found = 1 ]; then
            if [ -z "$only" ]; then
                cldctl_say "does not start again: $cldctl_answer"
            elif [ ! -e "${cldctl_files}_cancelled" ]; then
                # A job in a container does not know whether it was preempted or cancelled.
                cldctl_patience=20 cldctl_ask "$code" told ""
            fi
            return
        fi
        if [ $found = 0 ]; then
            # Slurm ends this script in a moment.
            cldctl_requeue && exit $code
            found=$?
            if [ $found = 1 ]; then
                local refusal=$cldctl_answer
                cldctl_look
                # An earlier request may have arrived late.
                case $cldctl_state in PENDING | REQUEUED | REQUEUE_HOLD) exit $code ;; esac
                cldctl_answer=$refusal
            fi
        fi
        if [ $found != 2 ] || [ $SECONDS -ge $end ]; then break; fi
        cldctl_say "is not requeued yet: $cldctl_answer"
        sleep $pause
        pause=$((pause < 8 ? pause * 2 : 10))
    done
    cldctl_say "could not be requeued: $cldctl_answer"
    cldctl_ask "$code" refused "$cldctl_answer"
    # A bad end, so that a successor begins.
    code=7
    refused=1
}

# The wish if Python cannot decide.
cldctl_default() {
    case $code in 2 | 3 | 6 | 7) return 1 ;; esac
    if [ "$cldctl_restart" -ge 50 ]; then cldctl_say "was started 51 times: not started again" && return 1; fi
    delay=$((cldctl_restart < 6 ? 10 << cldctl_restart : 600))
    cldctl_say "starts again in $delay s: it could not be decided what follows"
}

# Writes down the nodes, of which Python, which may have no client, chooses those to avoid.
cldctl_see_nodes() {
    {
        [ "$(cldctl_shown ExcNodeList)" = "(null)" ] || timeout 20 scontrol show hostnames "$(cldctl_shown ExcNodeList)"
        echo --
        timeout 20 sinfo --noheader --Node --partition="$(cldctl_shown Partition)" --format='%N|%P|%T|%f'
    } >"${cldctl_files}_nodes" 2>/dev/null
}

# Whether the job of the last answer was cancelled: Slurm names a reason for every other end.
cldctl_was_cancelled() {
    case $(cldctl_shown PreemptTime) in None | Unknown | "") ;; *) return 1 ;; esac
    case $(cldctl_shown JobState) in COMPLETING | CANCELLED) ;; *) return 1 ;; esac
    case $(cldctl_shown Reason) in None | "") ;; *) return 1 ;; esac
}

# Ends this job if it follows a cancelled one, whose script was killed before it could cancel this one.
cldctl_heed() {
    local before=$(grep -lxF "$cldctl_job" "$cldctl_logs"/*_successor 2>/dev/null | head -n1)
    [ "$cldctl_restart" = 0 ] && [ -n "$before" ] || return
    before=$(basename "$before" _successor)
    cldctl_call scontrol --oneliner show job "$before" || return
    cldctl_was_cancelled || return
    cldctl_say "was to follow job $before, which was cancelled: nothing is done"
    cldctl_ask 0 withdrawn ""
    exit 0
}

# Submits the next job, which begins only if this one fails, where preemption cancels jobs.
cldctl_succeed() {
    cldctl_heed
    local task=${SLURM_ARRAY_TASK_ID-} tries=0 next name
    if next=$(cat "${cldctl_files}_successor" 2>/dev/null); then
        cldctl_call scontrol --oneliner show job "$next" || [ $? = 1 ] || return
        [ "$(cldctl_shown JobState)" != PENDING ] || return
    fi
    cldctl_call scontrol --oneliner show job "$cldctl_job" || cldctl_answer=
    local nodes=$(cldctl_shown ExcNodeList)
    next=$(
        trap '' TERM
        # With these variables, it would take itself for a task of this job.
        for name in $(compgen -e); do
            case $name in
            SLURM_CONF | SLURM_CONF_SERVER | SLURM_CLUSTERS | SLURM_JWT) ;;
            SLURM_* | SLURMD_* | SRUN_*) unset "$name" ;;
            esac
        done
        cldctl_within 120 sbatch --parsable --dependency="afternotok:$cldctl_job" --kill-on-invalid-dep=yes \
            ${task:+--array="$task"} $([ -z "${nodes#(null)}" ] || echo "--exclude=$nodes") "$0" 2>&1
    ) || { cldctl_say "has no successor: $next" && return; }
    next=$(echo "$next" | grep -oE '^[0-9]+' | tail -n1)${task:+_$task}
    # Only this user may write the pickle that a job begins with.
    until (umask 022 && cp "${cldctl_files}_submitted.pkl" "$cldctl_logs/${next}_submitted.pkl" 2>/dev/null) || [ $((tries += 1)) = 60 ]; do
        sleep 1
    done
    echo "$next" >"${cldctl_files}_successor"
    # Jobs that wait for the end of this job alone, such as an evaluation, wait for the next one.
    timeout 20 squeue --me --noheader --states=PENDING --format='%F|%E' | sort -u |
        sed -nE "s/^([0-9]+)\|afterany:$cldctl_job(\([a-z]*\))?$/update jobid=\1 dependency=afterany:$next/p" |
        timeout 20 scontrol
}

# Cancels the next job if this one was cancelled or failed: it is for a job that was taken away.
cldctl_withdraw() {
    local next
    next=$(cat "${cldctl_files}_successor" 2>/dev/null) || return
    if [ ! -e "${cldctl_files}_cancelled" ]; then
        cldctl_call scontrol --oneliner show job "$cldctl_job" || return $?
        case $(cldctl_shown PreemptTime) in None | Unknown | "") ;; *) return ;; esac
        if cldctl_limit || cldctl_logged "DUE TO "; then return; fi
        case $(cldctl_shown JobState) in
        RUNNING) [ $code != 0 ] || return ;;
        *) cldctl_was_cancelled || return ;;
        esac
    fi
    cldctl_within 20 scancel "$next"
    rm -f "${cldctl_files}_successor"
}

# Undoes shell options of the setup.
cldctl_plain() {
    set +eEufC
    set +o pipefail
    unset IFS
}

cldctl_follow() {
    code=$?
    trap '' TERM
    trap - EXIT ERR
    cldctl_plain
    delay= avoid= readmit= only= refused=
    # A command of the setup may have ended by the signal that the job gets.
    if [ "$cldctl_phase" = setup ] && [ -z "$cldctl_told" ] && [ $code != 143 ]; then
        cldctl_say "ended in cluster.setup with code $code${cldctl_line:+, in line: $(sed -n "${cldctl_line}p" "$0")}"
        [ $code != 0 ] || code=1
    fi
    if [ $code = 9 ] && [ "$cldctl_phase" = work ]; then
        # The job could not write down its wish.
        cldctl_default
    elif [ $code != 0 ] && [ ! -s "$cldctl_wish" ] && { cldctl_look || [ $? != 1 ]; }; then
        cldctl_see_nodes
        # Slurm kills a job that is ending KillWait seconds after SIGTERM.
        [ "$cldctl_state" != COMPLETING ] || cldctl_patience=20
        cldctl_ask "$code" "$cldctl_phase" "$cldctl_begin"
        case $? in
        0) ;;
        9) cldctl_default ;;
        *) [ -s "$cldctl_wish" ] || ! cldctl_logged "^--- start " || cldctl_default ;;
        esac
    fi
    if [ -s "$cldctl_wish" ]; then
        while read -r name value; do
            case $name in delay | avoid | readmit | only) local "$name=$value" ;; esac
        done <"$cldctl_wish"
    fi
    if [ -n "$delay" ]; then cldctl_carry_out; fi
    # If it could not be requeued, only the next job continues the run.
    [ -n "$refused" ] || cldctl_withdraw
    exit $code
}

# During the setup there are no ranks: a time limit or a scancel ends this script.
cldctl_phase=setup
cldctl_patience=120
cldctl_told=
cldctl_line=
trap cldctl_follow EXIT
# The line of the setup that fails; in a function, such as module, the line that calls it.
trap 'cldctl_line=$LINENO; [ ${#BASH_LINENO[@]} -lt 2 ] || cldctl_line=${BASH_LINENO[${#BASH_LINENO[@]} - 2]}' ERR
trap 'cldctl_told=1; exit 143' TERM
set -eE
