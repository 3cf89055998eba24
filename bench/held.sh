# shellcheck shell=bash
#
# Suite held: what becomes of new events while somebody else's transaction stays open. Sourced by bench/run.
#
# The transaction has an id and publishes nothing. It is in another database, or in each peer's own.

suite_held() {
	local peers where

	workers off
	peers_create async loop pgq pgque pgmq pg_incremental
	orders=1000 backlog=$(size 20000 5000)
	declare -A published=()
	for where in nowhere elsewhere here; do
		held_part "$where"
	done
	peers_drop
	workers on
}

# Measures all peers with a transaction open somewhere.
held_part() {
	local peer holders=()
	declare -A share=()

	case $1 in
		nowhere) part "new events, no transaction being open" ;;
		elsewhere)
			part "new events, a transaction being open in another database"
			held_open postgres
			;;
		here)
			part "new events, a transaction being open in the same database"
			for peer in "${peers[@]}"; do held_open "peer_$peer"; done
			;;
	esac
	measure_in_turns held "$(size 5 3)" "${peers[@]}"
	run_psql -Atc "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE application_name = 'holder'" >/dev/null
	[ ${#holders[@]} -eq 0 ] || wait "${holders[@]}" 2>/dev/null || true

	# Nothing is lost, once the transaction is gone.
	for peer in "${peers[@]}"; do
		peer_catch_up "$peer" >/dev/null
	done
	peers_check

	for peer in "${peers[@]}"; do
		# shellcheck disable=SC2086 # a list of numbers
		figure "${peer_meaning[$peer]}: processed meanwhile" % "$([ "$peer" != async ] || echo '>= 100')" ${share[$peer]}
	done
	for peer in "${peers[@]}"; do
		# Of a peer that stands still there is nothing to say.
		[[ "${share[$peer]} " =~ ' '0(\.0+)?' ' ]] || rate_figures 1 "$peer" "${peer_meaning[$peer]}"
	done
}

# Opens such a transaction in a database; its process is added to the caller's holders.
held_open() {
	as_server_user env PGAPPNAME=holder "$bindir/psql" -X -d "$1" \
		-c 'SELECT pg_current_xact_id(), pg_sleep(86400)' >/dev/null 2>&1 &
	holders+=("$!")
	until [ "$(run_psql -Atc "SELECT count(*) FROM pg_stat_activity
		WHERE application_name = 'holder' AND backend_xid IS NOT NULL AND datname = '$1'")" = 1 ]; do sleep 0.1; done
}

# Small transactions, as between two looks of a loop.
held_prepare() {
	peers_publish 100
}

held_measure() {
	peer_catch_up "$1"
}

# Notes which share of the events each has.
held_check() {
	local peer database

	for peer in "${peers[@]}"; do
		database=peer_$peer
		share[$peer]+=" $(sql <<<"SELECT greatest(trunc(100.0 * (coalesce(sum(items), 0) - ${published[$peer]} + $backlog) / $backlog, 2), 0)
			FROM bench.kept")"
	done
}
