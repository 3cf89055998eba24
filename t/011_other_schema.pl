# A worker looks into every database, as a superuser. In one without the extension anybody who may create schemas
# can make a schema "cqrs" with tables like ours: a worker that believed them would run their owner's code.

use strict;
use warnings FATAL => 'all';

use FindBin;
use PostgreSQL::Test::Utils;
use Test::More;

use lib "$FindBin::RealBin/lib";
use CqrsTest;

my $node = new_server('other_schema');

# The real thing, with what a cheat needs in it, is the model for the copy.
create_database($node, 'postgres');
$node->safe_psql('postgres', 'CREATE ROLE cheat LOGIN CREATEDB');
$node->safe_psql('postgres', 'CREATE DATABASE copy', connstr => $node->connstr('postgres') . ' user=cheat');
$node->safe_psql('copy', q{
	CREATE SCHEMA cqrs;
	CREATE TYPE cqrs.event AS (position bigint, event_id uuid, source text, aggregate_type text, aggregate_id text,
		aggregate_version bigint, event_type text, payload jsonb, metadata jsonb, occurred_at timestamptz);
	CREATE TABLE cqrs.events OF cqrs.event;
	CREATE TABLE cqrs.outbox (LIKE cqrs.events, xid xid8);
	CREATE TABLE cqrs.incarnation AS SELECT gen_random_uuid() AS id;
	CREATE TABLE cqrs.checkpoint AS
		SELECT 1 AS projection, id AS incarnation, '1:1:'::pg_snapshot AS done, NULL::pg_snapshot AS target,
			0::bigint AS low, 0::bigint AS high, 0::bigint AS last_position, 0::bigint AS events_processed,
			0::bigint AS batches
		FROM cqrs.incarnation;
	INSERT INTO cqrs.outbox
		SELECT 1, gen_random_uuid(), 's', 't', 'a', 1, 'e', '{}', '{}', now(), pg_current_xact_id();
	CREATE FUNCTION cqrs.seize() RETURNS text LANGUAGE plpgsql VOLATILE AS $$
		BEGIN EXECUTE 'ALTER ROLE cheat SUPERUSER'; RETURN 'done'; END $$;
	CREATE FUNCTION cqrs.key(text) RETURNS text LANGUAGE plpgsql STABLE AS $$
		BEGIN RETURN cqrs.seize(); END $$;
	CREATE TABLE cqrs.registry AS
		SELECT 1 AS id, 'p'::name AS name, 'event' AS kind, 'cqrs.h(cqrs.event)' AS handler, NULL AS query,
			'{}'::regclass[] AS read_tables, NULL::regclass AS state_table, 'inline' AS mode, NULL::text[] AS event_types,
			NULL::text[] AS aggregate_types, NULL::text[] AS sources, 'cqrs.key(aggregate_id)' AS key,
			'beginning' AS start_at, 'stop' AS on_error, 'keys' AS notify, NULL::integer AS batch_size, 1 AS segments,
			'{search_path=pg_catalog}'::text[] AS settings,
			now() AS created_at, 'running' AS state, NULL::timestamptz AS rebuild_started_at, false AS parked,
			NULL::timestamptz AS parked_retry_at, 0::bigint AS retries,
			NULL::timestamptz AS next_retry_at, NULL AS last_error, NULL::timestamptz AS last_error_at;
	ALTER TABLE cqrs.registry ADD owner regrole;
	UPDATE cqrs.registry SET owner = (SELECT oid FROM pg_roles WHERE rolsuper ORDER BY oid LIMIT 1);
}, connstr => $node->connstr('copy') . ' user=cheat');

# After a restart the launcher looks into all databases.
$node->restart;
publish($node, 'postgres', 1);
poll_ok($node, 'postgres', "SELECT count(*) = 1 FROM cqrs.worker_status WHERE database = 'postgres'",
	'a worker serves the real extension');
poll_ok($node, 'postgres', "SELECT NOT EXISTS (SELECT FROM cqrs.worker_status WHERE database = 'copy')
	AND (SELECT pg_stat_get_db_sessions(oid) > 0 FROM pg_database WHERE datname = 'copy')",
	'no worker stays with the copy');
is($node->safe_psql('postgres', "SELECT rolsuper FROM pg_roles WHERE rolname = 'cheat'"), 'f',
	'the copy has got its owner nothing');
is($node->safe_psql('copy', "SELECT state, last_error FROM cqrs.registry"), 'running|', 'and was not touched');

$node->stop;
done_testing();
