# shellcheck shell=bash
#
# Suite memory: what a worker takes while it drains a large backlog. Sourced by bench/run.
#
# RssAnon in /proc/PID/status: the memory that is the worker's own, without the shared buffers that it reads.

suite_memory() {
	local events pid now samples=() tenth early late

	events=$(size 5000000 500000)
	sql >/dev/null <<-SQL
		SELECT cqrs.create_projection('bench', 'bench.keep()', '{bench.by_engine}');
		SELECT cqrs.pause_projection('bench');
		CALL bench.publish($events);
		VACUUM (ANALYZE, FREEZE) cqrs.outbox;
	SQL
	workers on
	until pid=$(sql <<<"SELECT pid FROM cqrs.worker_status WHERE database = current_database()
		AND activity LIKE 'waiting%'") && [ -n "$pid" ]; do sleep 0.1; done
	sql <<<"SELECT cqrs.resume_projection('bench')" >/dev/null

	while :; do
		now=$(awk '/^RssAnon:/ { print $2 / 1024 }' "/proc/$pid/status")
		[ -n "$now" ] || die "the worker went away"
		samples+=("$now")
		if [ $((${#samples[@]} % 10)) -eq 0 ] &&
			[ "$(sql <<<"SELECT cqrs.wait_for('bench', '0 seconds')")" = t ]; then
			break
		fi
		sleep "$(size 0.2 0.02)"
	done
	same_work "the read table" "$(sql <<<"SELECT bench.checksum('bench.by_engine')")" "$(sql <<-'SQL'
		SELECT bench.checksum_of('SELECT aggregate_id, count(*), sum((payload->>''price'')::numeric) FROM cqrs.outbox GROUP BY aggregate_id')
	SQL
	)"

	tenth=$((${#samples[@]} / 10))
	early=$(printf '%s\n' "${samples[@]:tenth:tenth * 2}" | sort -g | tail -n 1)
	late=$(printf '%s\n' "${samples[@]: -tenth * 2}" | sort -g | tail -n 1)
	figure "a worker's own memory, draining $events events: most" MB "< 100" \
		"$(printf '%s\n' "${samples[@]}" | sort -g | tail -n 1)"
	figure "most in the last fifth of the drain against early in it" ratio "<= 1.1" "$(quotient "$late" "$early")"
	figure "samples taken" "" "" "${#samples[@]}"
}
