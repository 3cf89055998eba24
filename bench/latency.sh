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

	latency_of_peers
	part "50 events a second, seen by a reader"
	seconds=$(size 10 5)
	rounds=$(size 3 2)
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

# ---------------------------------------------------------------------------------------------------------
# Peers
# ---------------------------------------------------------------------------------------------------------

# One session publishes single events steadily. When an event became visible is told by the commit timestamp of the
# transaction that made its row in the read table.
latency_of_peers() {
	local peers next=0 peer

	workers off
	peers_create async loop woken pgq__tuned pgq refresh emmett
	latency_part 50 on "$(size 200 100)"
	latency_part 1000 off "$(size 5000 2000)"
	latency_part 0 off "$(size 20000 3000)"
	peers_drop
	workers on
}

# Measures all peers at a rate, 0 being flat out. Arguments: the rate, the publisher's synchronous_commit, the events.
latency_part() {
	rate=$1 commit=$2 events=$3
	part "$([ "$rate" = 0 ] && echo "as many events as go" || echo "$rate events a second"), synchronous_commit=$commit"
	measure_in_turns latency "$(size 3 1)" "${peers[@]}"

	# Of the three numbers, the first is the median, the second what 95 % are below, the third a commit.
	# shellcheck disable=SC2046,SC2086 # lists of numbers
	{
		figure "async view: median against the publisher's own commit" ratio "$([ "$rate" != 50 ] || echo '<= 2')" \
			$(quotients "${taken[async]}" "${applied[async]}")
		[ -z "${taken[pgq__tuned]:-}" ] ||
			figure "PgQ, tuned for latency: median against the async view's" ratio "$([ "$rate" != 50 ] || echo '>= 15')" \
				$(quotients "${taken[pgq__tuned]}" "${taken[async]}")
		for peer in "${peers[@]}"; do
			figure "${peer_meaning[$peer]}: median" ms "" ${taken[$peer]}
		done
		for peer in "${peers[@]}"; do
			figure "${peer_meaning[$peer]}: 95 % are quicker than" ms "" ${used[$peer]}
		done
		figure "the publisher's own commit" ms "" ${applied[async]}
	}
}

latency_prepare() {
	:
}

latency_check() {
	next=$((next + events))
}

latency_measure() {
	local database=peer_$1

	peer_start "$1"
	sql <<-SQL
		TRUNCATE bench.timed;
		SET synchronous_commit = $commit;
		CALL bench.publish_timed($events, $next, $rate);
	SQL
	peer_wait "$1"
	peer_stop "$1"
	[ "$1" = emmett ] || same_work "samples of $1" "$events" \
		"$(sql <<<'SELECT count(*) FROM bench.timed JOIN bench.kept USING (order_id)')"
	sql -F ' ' <<-'SQL'
		SELECT percentile_cont(0.5) WITHIN GROUP (ORDER BY 1000 * extract(epoch FROM visible - published)::float8),
		       percentile_cont(0.95) WITHIN GROUP (ORDER BY 1000 * extract(epoch FROM visible - published)::float8),
		       percentile_cont(0.5) WITHIN GROUP (ORDER BY 1000 * extract(epoch FROM committed - published)::float8)
		FROM (SELECT published, committed, pg_xact_commit_timestamp(kept.xmin) AS visible
		      FROM bench.timed JOIN bench.kept USING (order_id)) AS event
	SQL
}
