# shellcheck shell=bash
#
# Suite notify: what listeners cost. Sourced by bench/run.
#
# As many sessions as listen are there, and do the same, without listening, in the other turn. Each asks the server
# once a second, which is when psql reads what it has heard.

suite_notify() {
	local n

	sql <"$bench/shapes.sql"
	sql >/dev/null <<-'SQL'
		SET search_path = bench;
		SELECT cqrs.create_view('view', query) FROM bench.shape WHERE name = 'sums';
	SQL
	rows=1 clients=1 commit=off rate=100 seconds=$(size 6 3)
	workers on
	for n in 1 10 $(size 100 ""); do
		part "100 events a second, $n listener$([ "$n" = 1 ] || echo s)"
		listeners=$n
		measure_in_turns notify "$(size 3 1)" listening silent
		cost_figure "processor time, listening against not" "" listening silent
		# shellcheck disable=SC2046 # lists of numbers
		{
			figure "listening: processor time of an event" us "" $(quotients "${used[listening]}" 1.0e-3)
			figure "listening: thereof the worker" us "" $(quotients "${applied[listening]}" 1.0e-3)
			figure "not listening: processor time of an event" us "" $(quotients "${used[silent]}" 1.0e-3)
			figure "not listening: thereof the worker" us "" $(quotients "${applied[silent]}" 1.0e-3)
		}
	done
	rate=
}

notify_prepare() {
	:
}

notify_check() {
	same_work "read table" "$(sql <<<"SELECT bench.checksum('view', 'sums')")" \
		"$(sql <<<"SELECT bench.checksum_by_query('sums')")"
}

notify_measure() {
	local i feeder pids=() pipes=() heard

	rm -f "$workspace"/heard.* "$workspace"/asks.*
	for ((i = 1; i <= listeners; i++)); do
		pipes+=("$workspace/asks.$i")
		as_server_user mkfifo "$workspace/asks.$i"
		start_job notify_session "$1" "$i"
		pids+=("$started")
	done
	start_job notify_feed "${pipes[@]}"
	feeder=$started
	until [ "$(run_psql -Atc "SELECT count(*) FROM pg_stat_activity
		WHERE application_name = 'listener' AND query = 'SELECT 1;'")" = "$listeners" ]; do sleep 0.2; done
	publish_by_pgbench cqrs.outbox notify_wait
	sleep 2
	# When nobody feeds them, they end.
	end_group "$feeder"
	wait "$feeder" "${pids[@]}" 2>/dev/null || true
	heard=$(grep -l '^Asynchronous notification .* payload .*"position"' "$workspace"/heard.* | wc -l || true)
	case $1 in
		listening) same_work "listeners that heard" "$heard" "$listeners" ;;
		silent) same_work "those that heard without listening" "$heard" 0 ;;
	esac
}

# Is a session that listens, or does not, and sends what comes by its pipe.
notify_session() {
	as_server_user env PGAPPNAME=listener "$bindir/psql" -X -q -At -d "$database" \
		-c "$([ "$1" = silent ] || echo 'LISTEN view')" -f "$workspace/asks.$2" >"$workspace/heard.$2" 2>&1
}

# Has all sessions ask once a second.
notify_feed() {
	while echo 'SELECT 1;'; do sleep 1; done | tee "$@" >/dev/null
}

notify_wait() {
	watch "SELECT cqrs.wait_for('view', '1 minute')"
	same_work "waiting for the view" "$seen" t
}
