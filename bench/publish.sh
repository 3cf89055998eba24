# shellcheck shell=bash
#
# Suite publish: what publishing costs the publishers. Sourced by bench/run.
#
# 8 clients insert single rows: into the outbox, with an async projection registered and a worker keeping it,
# and into a table of the same columns, indexes and defaults (but for the extension's function).

suite_publish() {
	sql >/dev/null <<<"SELECT cqrs.create_projection('bench', 'bench.keep()', '{bench.by_engine}')"
	seconds=$(size 10 3)
	clients=8
	for commit in on off; do
		part "8 clients, one async projection, synchronous_commit=$commit"
		measure_in_turns publish 7 outbox plain
		speed_figure "the outbox, against the plain table" "$([ $commit = off ] || echo '>= 0.9')" outbox plain
		rate_figures 1 plain "plain table" outbox "the outbox, and its worker's work"
	done
}

publish_prepare() {
	:
}

publish_measure() {
	case $1 in
		outbox) publish_by_inserts cqrs.outbox "" "SELECT cqrs.wait_for('bench', '1 minute')" ;;
		plain) publish_by_inserts bench.plain_outbox ;;
	esac
}

publish_check() {
	same_work "events in the read table" \
		"$(sql <<<"SELECT cqrs.wait_for('bench', '1 minute'), (SELECT sum(items) FROM bench.by_engine)")" \
		"t|$(sql <<<'SELECT count(*) FROM cqrs.outbox')"
}

# Has $clients insert single rows into a table for $seconds, with synchronous_commit as in $commit. Prints how
# many milliseconds passed for each, and how many all of the server had the processor. SQL to run before can be
# given, and SQL that waits until the work that the rows cause is done.
publish_by_inserts() {
	local table=$1 before_sql=${2:-} wait_sql=${3:-} rows output used inserted

	[ -z "$before_sql" ] || sql <<<"$before_sql" >/dev/null
	rows=$(sql <<<"SELECT count(*) FROM $table")
	used=$(server_cpu)
	output=$(as_server_user env "PGOPTIONS=-c synchronous_commit=$commit" "PGDATABASE=$database" \
		"$bindir/pgbench" -n -M prepared -c "$clients" -j 2 -T "$seconds" -f - <<-SQL
			\set id random(0, 9999)
			INSERT INTO $table (aggregate_type, aggregate_id, event_type, payload)
			VALUES ('order', 'order-' || :id, 'ItemAdded', '$payload');
		SQL
	)
	[ -z "$wait_sql" ] || sql <<<"$wait_sql" >/dev/null
	used=$(($(server_cpu) - used))
	inserted=$(awk -F ': ' '/^number of transactions actually processed/ { print $2 + 0 }' <<<"$output")
	same_work "rows in $table" $(($(sql <<<"SELECT count(*) FROM $table") - rows)) "$inserted"
	awk -v used="$used" -v rows="$inserted" '/^tps = / { printf "%.5f %.5f\n", 1000 / $3, used / rows }' <<<"$output"
}

# What each event says, in about 200 bytes.
payload='{"sku": "sku-1", "price": 12.5, "channel": "web", "comment": "please ring twice, number 123456",
	"currency": "EUR", "customer": "customer-12345", "quantity": 1, "warehouse": "warehouse-1"}'
