# shellcheck shell=bash
#
# Suite idle: how often who has nothing to do wakes up. Sourced by bench/run.
#
# Context switches of the server's processes, from /proc: whoever wakes up is switched to.

suite_idle() {
	local i peers peer made=0

	idle_seconds=$(size 15 5)
	sql <"$bench/shapes.sql"
	for i in 1 10; do
		part "$i projection$([ "$i" = 1 ] || echo s), $idle_seconds seconds without an event"
		for ((; made < i; made++)); do
			sql <<<"CALL bench.create_way('sums', 'view', 'view_$made'); SELECT cqrs.resume_projection('view_$made') \g /dev/null"
		done
		workers on
		sleeping_worker >/dev/null
		sleep 2
		idle_figure "the launcher and the worker together" "" \
			"backend_type = 'cqrs_views launcher' OR backend_type = 'cqrs_views worker'"
		workers off
	done

	part "others, $idle_seconds seconds without an event"
	peers_create loop woken pgq pgq__tuned emmett
	for peer in "${peers[@]}"; do
		database=peer_$peer peer_start "$peer"
		sleep 2
		idle_figure "${peer_meaning[$peer]}: sessions in the server" "" "application_name = 'consumer'"
		database=peer_$peer peer_stop "$peer"
	done
	peers_drop
	workers on
}

# Notes how often some of the server's processes wake up, and what they need of the processor. Arguments: what they
# are, the target, a condition on pg_stat_activity.
idle_figure() {
	local pids switches used pid

	mapfile -t pids < <(run_psql -Atc "SELECT pid FROM pg_stat_activity WHERE $3")
	same_work "processes of $1" "$([ ${#pids[@]} -gt 0 ] && echo some)" some
	switches=$(idle_switches "${pids[@]}")
	used=$(for pid in "${pids[@]}"; do process_cpu "$pid"; done | awk '{ sum += $1 } END { print sum }')
	sleep "$idle_seconds"
	switches=$(($(idle_switches "${pids[@]}") - switches))
	used=$(for pid in "${pids[@]}"; do process_cpu "$pid"; done | awk -v used="$used" '{ sum += $1 } END { print sum - used }')
	figure "$1: wake-ups" 1/s "$2" "$(quotient "$switches" "$idle_seconds")"
	figure "$1: processor time of a second" us "" "$(quotient "$used" "$idle_seconds.0e-3")"
}

# Prints how often processes were switched away from.
idle_switches() {
	local pid

	for pid in "$@"; do
		cat "/proc/$pid/status"
	done | awk '/^(non)?voluntary_ctxt_switches:/ { sum += $2 } END { print sum }'
}
