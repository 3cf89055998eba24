# shellcheck shell=bash
#
# What the suites do with the server: databases, timed statements, processor time, workers. Sourced by bench/run.

# Picks a size: the first for a full run, the second for a quick one.
size() {
	if [ -n "$quick" ]; then echo "$2"; else echo "$1"; fi
}

# Begins again with an empty database, with what all suites share and further files of this folder in it.
fresh_database() {
	local file

	run_psql -c 'SET client_min_messages = warning' -c "DROP DATABASE IF EXISTS $database WITH (FORCE)" \
		-c "CREATE DATABASE $database"
	for file in plain.sql orders.sql "$@"; do
		sql <"$bench/$file"
	done
}

# Runs SQL from standard input in the database that the suite works with.
sql() {
	run_psql -d "$database" -At -f - "$@"
}

# Runs SQL from standard input in that database, and prints how many milliseconds the statements after
# "\timing on" took, until "\timing off" or the end: as psql counts them, and as the session's process needed the
# processor.
measured() {
	{
		sed -e 's/^[[:blank:]]*\\timing on/:cpu\n&/' -e 's/^[[:blank:]]*\\timing off/&\n:cpu/'
		printf '\\timing off\n:cpu\n'
	} |
		sql -v cpu="SELECT 'cpu ' || split_part(pg_read_file('/proc/self/schedstat'), ' ', 1);" "$@" |
		awk '/^Time: / { passed += $2 }
			/^cpu / { n++; if (n % 2) from = $2; else used += $2 - from }
			END { printf "%.3f %.3f\n", passed, used / 1e6 }'
}

# Prints these numbers for a procedure's call.
measured_call() {
	measured <<-SQL
		SET synchronous_commit = off;
		\timing on
		CALL $1;
	SQL
}

# Prints how many milliseconds a process of the server has had the processor.
process_cpu() {
	awk '{ printf "%.3f\n", $1 / 1e6 }' "/proc/$1/schedstat"
}

# Opens a session that looks on, in the database that the suite works with, and costs what is measured nothing: it is
# there before and after, and server_cpu leaves it out.
watch_open() {
	coproc WATCHER { as_server_user "$bindir/psql" -X -q -At -v ON_ERROR_STOP=1 -d "$database"; }
	watch 'SELECT pg_backend_pid()'
	watcher=$seen
}

# Has it run a statement that returns a row. Sets seen to this.
watch() {
	echo "$1;" >&"${WATCHER[1]}"
	read -r seen <&"${WATCHER[0]}" || die "the session that looks on has ended"
}

watch_close() {
	local pid=$WATCHER_PID

	eval "exec ${WATCHER[1]}>&-"
	wait "$pid"
	watcher=
}

# Prints how many milliseconds all of the server's processes together have had the processor, but for the session that
# looks on: those that live, and those that the postmaster has seen end, sessions of this script among them.
server_cpu() {
	local postmaster tick ended= living child

	postmaster=$(head -n 1 "$data_dir/postmaster.pid")
	tick=$(getconf CLK_TCK)
	# Once more when one ended in between.
	until [ "$ended" = "$(awk '{ print $16 + $17 }' "/proc/$postmaster/stat")" ]; do
		ended=$(awk '{ print $16 + $17 }' "/proc/$postmaster/stat")
		living=$(for child in $postmaster $(<"/proc/$postmaster/task/$postmaster/children"); do
			[ "$child" = "${watcher:-}" ] || cat "/proc/$child/schedstat" 2>/dev/null || true
		done | awk '{ sum += $1 } END { printf "%.0f", sum / 1e6 }')
	done
	echo $((ended * 1000 / tick + living))
}

# Lets background workers process projections, or not.
workers() {
	run_psql -c "ALTER SYSTEM SET cqrs_views.enabled = $1" -c 'SELECT pg_reload_conf()' >/dev/null
	if [ "$1" = off ]; then
		until [ "$(run_psql -Atc 'SELECT count(*) FROM cqrs.worker_status' -d "$database")" = 0 ]; do sleep 0.1; done
	fi
}

# Prints the process id of the worker that sleeps in that database; waits until there is one.
sleeping_worker() {
	local pid

	until pid=$(sql <<<"SELECT pid FROM cqrs.worker_status WHERE database = current_database()
		AND activity LIKE 'waiting%'") && [ -n "$pid" ]; do sleep 0.1; done
	echo "$pid"
}

# Resumes a projection for a sleeping worker, and prints how many milliseconds passed until the worker was
# through, and how many it had the processor. That begins when the resuming session has committed, which wakes the
# worker, and has waited for the disk, which is not the worker's doing. The last batch's commit says when it was
# through. A session that waits for it would have a snapshot at nearly all times, and whoever has one while a batch
# commits keeps the next batch from removing the versions of rows that died in it.
resume_for_worker() {
	local pid used began passed

	pid=$(sleeping_worker)
	used=$(process_cpu "$pid")
	began=$(printf '%s\n' "SELECT cqrs.resume_projection('$1') \g /dev/null" 'SELECT clock_timestamp()' | sql)
	sleep 0.5
	until [ "$(sql <<<"SELECT cqrs.wait_for('$1', '0 seconds')")" = t ]; do sleep 0.5; done
	used=$(awk "BEGIN { print $(process_cpu "$pid") - $used }")
	passed=$(sql -v began="$began" <<-SQL
		SELECT round(1000 * extract(epoch FROM max(pg_xact_commit_timestamp(xmin)) - :'began'), 3) FROM $2
	SQL
	)
	echo "$passed $used"
}
