# shellcheck shell=bash
#
# Suite latency: from commit to visible, at 50 events a second. Sourced by bench/run.
#
# One session publishes, another reads the read table over and over: what a client sees that is in a hurry,
# without a network. Beside it a projection that is polled every 100 ms, and a publisher that waits for its
# own events by cqrs.wait_for. Publishers commit without waiting for the disk here, which is the same for all
# and would only be added.

suite_latency() {
	local seconds rounds i way values
	declare -A medians high

	seconds=$(size 20 5)
	rounds=$(size 5 3)
	sql <"$bench/latency.sql"

	# The first round only warms up.
	for ((i = 0; i <= rounds; i++)); do
		for way in reader wait_for poll; do
			latency_of "$way" $((50 * seconds))
			[ "$i" -gt 0 ] || continue
			values=$(sql <<-'SQL'
				SELECT percentile_cont(0.5) WITHIN GROUP (ORDER BY ms) || ' ' ||
				       percentile_cont(0.95) WITHIN GROUP (ORDER BY ms)
				FROM (SELECT extract(epoch FROM seen.at - published.at)::float8 * 1000 AS ms
				      FROM bench.published JOIN bench.seen USING (i)) AS took
			SQL
			)
			medians[$way]+=" ${values% *}"
			high[$way]+=" ${values#* }"
		done
	done

	# shellcheck disable=SC2086 # lists of numbers
	{
		figure "commit to visible, worker woken by the commit: median" ms "< 1" ${medians[reader]}
		figure "commit to visible, worker woken by the commit: 95 % are quicker than" ms "" ${high[reader]}
		figure "commit to the return of cqrs.wait_for: median" ms "" ${medians[wait_for]}
		figure "commit to the return of cqrs.wait_for: 95 % are quicker than" ms "" ${high[wait_for]}
		figure "commit to visible, polled every 100 ms instead: median" ms "" ${medians[poll]}
		figure "commit to visible, polled every 100 ms instead: 95 % are quicker than" ms "" ${high[poll]}
	}
}

# Fills bench.published and bench.seen with so many samples of a way.
latency_of() {
	local poller= reader=

	sql >/dev/null <<-'SQL'
		SELECT cqrs.drop_projection(name) FROM cqrs.projection;
		TRUNCATE bench.by_engine, bench.published, bench.seen;
		SELECT cqrs.create_projection('bench', 'bench.keep(cqrs.event)', '{bench.by_engine}', start_at => 'now');
	SQL
	if [ "$1" = poll ]; then
		workers off
		run_psql -d "$database" -c 'CALL bench.poll()' >/dev/null 2>&1 &
		poller=$!
	else
		workers on
		sql <<<"SELECT cqrs.wait_for('bench', '1 minute')" >/dev/null
	fi
	if [ "$1" != wait_for ]; then
		sql <<<"CALL bench.look($2)" &
		reader=$!
	fi
	sql <<<"SET synchronous_commit = off; CALL bench.publish_steadily($2, '$([ "$1" = wait_for ] && echo on || echo off)')"
	[ -z "$reader" ] || wait "$reader"
	if [ -n "$poller" ]; then
		sql <<<"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query = 'CALL bench.poll()'" >/dev/null
		wait "$poller" || true
	fi
	same_work "samples of $1" "$(sql <<<"SELECT count(*) FROM bench.published JOIN bench.seen USING (i)")" "$2"
	same_work "read table of $1" "$(sql <<<"SELECT sum(items) FROM bench.by_engine")" "$2"
}
