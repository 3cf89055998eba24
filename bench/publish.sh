# shellcheck shell=bash
#
# Suite publish: what publishing costs the publishers. Sourced by bench/run.
#
# 8 clients insert single rows: into the outbox, with an async projection registered and a worker keeping it,
# and into a table of the same columns, indexes and defaults (but for the extension's function). In pairs, one
# after the other, each time the other one first. The table starts each turn as large as the outbox.

suite_publish() {
	local seconds pairs

	seconds=$(size 10 3)
	pairs=7
	sql <"$bench/orders.sql"
	sql >/dev/null <<-'SQL'
		DROP TRIGGER keep ON bench.plain_outbox;
		SELECT cqrs.create_projection('bench', 'bench.keep()', '{bench.by_engine}');
	SQL

	publish_pairs on ">= 0.9" "tps against the plain table"
	publish_pairs off "" "tps against the plain table, synchronous_commit=off"
	same_work "events in the read table" \
		"$(sql <<<"SELECT cqrs.wait_for('bench', '1 minute'), (SELECT sum(items) FROM bench.by_engine)")" \
		"t|$(sql <<<'SELECT count(*) FROM cqrs.outbox')"
}

# Measures with a value of synchronous_commit; the others are the figure's target and what it is called.
publish_pairs() {
	local i here there order
	local ratios=() events=() rows=()

	for ((i = 0; i <= pairs; i++)); do
		order="cqrs.outbox bench.plain_outbox"
		[ $((i % 2)) -eq 0 ] || order="bench.plain_outbox cqrs.outbox"
		for table in $order; do
			if [ "$table" = cqrs.outbox ]; then
				here=$(publish_tps "$table" "$1")
				sql <<<"SELECT cqrs.wait_for('bench', '1 minute')" >/dev/null
			else
				there=$(publish_tps "$table" "$1")
			fi
		done
		[ "$i" -gt 0 ] || continue
		ratios+=("$(quotient "$here" "$there")")
		events+=("$here")
		rows+=("$there")
	done
	figure "8 clients, one async projection: $3" ratio "$2" "${ratios[@]}"
	figure "8 clients, synchronous_commit=$1: events a second" tps "" "${events[@]}"
	figure "8 clients, synchronous_commit=$1: rows a second in the plain table" tps "" "${rows[@]}"
}

# Prints the transactions a second that so many clients (8 by default) manage with a table. Arguments: the table,
# the value of synchronous_commit, the clients.
publish_tps() {
	local before after output done_there

	before=$(sql <<<"SELECT count(*) FROM $1")
	output=$(as_server_user env "PGOPTIONS=-c synchronous_commit=$2" "PGDATABASE=$suite" \
		"$bindir/pgbench" -n -M prepared -c "${3:-8}" -j 2 -T "$seconds" -f - <<-SQL
			\set id random(0, 9999)
			INSERT INTO $1 (aggregate_type, aggregate_id, event_type, payload)
			VALUES ('order', 'order-' || :id, 'ItemAdded', '{"sku": "sku-1", "quantity": 1, "price": 12.5}');
		SQL
	)
	after=$(sql <<<"SELECT count(*) FROM $1")
	done_there=$(awk -F ': ' '/^number of transactions actually processed/ { print $2 }' <<<"$output")
	same_work "rows in $1" $((after - before)) "${done_there%% *}"
	awk '/^tps = / { print $3 }' <<<"$output"
}
