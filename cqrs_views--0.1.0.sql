/*
 * cqrs_views 0.1.0: the whole schema.
 *
 *   events    type  cqrs.event        one immutable event, what handlers get
 *             table cqrs.outbox       every event, in the order of publication
 *             table cqrs.events       always empty; lends its shape to batches
 *   aggregates first and last, by order of input or by position
 *   engine    table cqrs.registry     the projections: definition and state
 *             table cqrs.checkpoint   which events each has processed, and counters
 *             table cqrs.parked       events that were put aside
 *             table cqrs.incarnation  one row, never dumped: whose transaction
 *                                     ids those are
 *             table cqrs.era          whose the older events' are, which were
 *                                     restored from a dump
 *   sources   table cqrs.attachment   tables whose rows become events
 *             table cqrs.received     which events they have brought
 *             table cqrs.arrival      counters of that
 *             table cqrs.parked_row   rows that could not be made events
 *   to look at: views cqrs.projection, cqrs.projection_status, cqrs.dead_letter,
 *             cqrs.worker_status, cqrs.rebuild_progress, cqrs.source_status,
 *             cqrs.source_dead_letter
 *
 * The C function behind each SQL function is documented in src/sql_*.c.
 */
\echo Use "CREATE EXTENSION cqrs_views" to load this file. \quit

CREATE SCHEMA cqrs;
COMMENT ON SCHEMA cqrs IS 'events, projections and read tables (extension cqrs_views)';
GRANT USAGE ON SCHEMA cqrs TO PUBLIC;

/* ---------------------------------------------------------------- events */

CREATE TYPE cqrs.event AS (
	position bigint,
	event_id uuid,
	source text,
	aggregate_type text,
	aggregate_id text,
	aggregate_version bigint,
	event_type text,
	payload jsonb,
	metadata jsonb,
	occurred_at timestamptz
);
COMMENT ON TYPE cqrs.event IS 'what happened to one aggregate; what a handler gets';

CREATE FUNCTION cqrs.current_xid() RETURNS xid8
LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'cqrs_sql_current_xid';
COMMENT ON FUNCTION cqrs.current_xid() IS
	'the publishing transaction''s id; wakes the workers when it commits';

CREATE TABLE cqrs.outbox (
	position bigint GENERATED ALWAYS AS IDENTITY,
	event_id uuid NOT NULL DEFAULT pg_catalog.gen_random_uuid(),
	source text NOT NULL DEFAULT CURRENT_USER,
	aggregate_type text NOT NULL,
	aggregate_id text NOT NULL,
	aggregate_version bigint,
	event_type text NOT NULL,
	payload jsonb NOT NULL DEFAULT '{}',
	metadata jsonb NOT NULL DEFAULT '{}',
	occurred_at timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
	xid xid8 NOT NULL DEFAULT cqrs.current_xid(),
	CONSTRAINT outbox_pkey PRIMARY KEY (position)
);
CREATE INDEX outbox_xid_position ON cqrs.outbox (xid, position);
COMMENT ON TABLE cqrs.outbox IS
	'every event; insert into it in the transaction of the business change';
COMMENT ON COLUMN cqrs.outbox.position IS
	'unique, rising per key, with gaps, not in commit order';
COMMENT ON COLUMN cqrs.outbox.source IS 'the service that published the event';
COMMENT ON COLUMN cqrs.outbox.xid IS 'the transaction that published the event';
COMMENT ON INDEX cqrs.outbox_xid_position IS 'finds what became visible between two snapshots';

/* costly for the planner's eyes: to be asked of rows that pass all else */
CREATE FUNCTION cqrs.count_event(event_position bigint) RETURNS boolean
LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE COST 1000
AS 'MODULE_PATHNAME', 'cqrs_sql_count_event';
COMMENT ON FUNCTION cqrs.count_event(bigint) IS
	'counts the events that a view''s own statement reads';

CREATE FUNCTION cqrs.count_event(event_position bigint, event_xid xid8) RETURNS boolean
LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE COST 1000
AS 'MODULE_PATHNAME', 'cqrs_sql_pick_event';
COMMENT ON FUNCTION cqrs.count_event(bigint, xid8) IS
	'picks and counts the events that a view''s own statement reads';

CREATE FUNCTION cqrs.count_events(event_count bigint) RETURNS boolean
LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'cqrs_sql_count_events';
COMMENT ON FUNCTION cqrs.count_events(bigint) IS
	'counts the events of a group that a view''s own statement reads';

CREATE FUNCTION cqrs.guard_outbox() RETURNS trigger
LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'cqrs_sql_guard_outbox';
COMMENT ON FUNCTION cqrs.guard_outbox() IS
	'refuses to change events, and to replicate straight into the outbox';

CREATE TRIGGER cqrs_immutable
	BEFORE UPDATE OR DELETE OR TRUNCATE ON cqrs.outbox
	FOR EACH STATEMENT EXECUTE FUNCTION cqrs.guard_outbox();
ALTER TABLE cqrs.outbox ENABLE ALWAYS TRIGGER cqrs_immutable;
COMMENT ON TRIGGER cqrs_immutable ON cqrs.outbox IS 'events are immutable';

/*
 * Logical replication fires row triggers only. AFTER, and for replicas only:
 * a BEFORE ROW trigger would cost COPY its multi-row inserts.
 */
CREATE TRIGGER cqrs_no_replication
	AFTER INSERT OR UPDATE OR DELETE ON cqrs.outbox
	FOR EACH ROW EXECUTE FUNCTION cqrs.guard_outbox();
ALTER TABLE cqrs.outbox ENABLE REPLICA TRIGGER cqrs_no_replication;
COMMENT ON TRIGGER cqrs_no_replication ON cqrs.outbox IS
	'a subscription would carry foreign positions and transaction ids';

CREATE TABLE cqrs.events OF cqrs.event;
COMMENT ON TABLE cqrs.events IS
	'always empty: the table that a batch handler''s transition table "events" has its columns from';

CREATE FUNCTION cqrs.publish(
	aggregate_type text, aggregate_id text, event_type text,
	payload jsonb DEFAULT '{}', metadata jsonb DEFAULT '{}',
	event_id uuid DEFAULT NULL, aggregate_version bigint DEFAULT NULL,
	occurred_at timestamptz DEFAULT NULL)
RETURNS bigint
LANGUAGE c VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'cqrs_sql_publish';
COMMENT ON FUNCTION cqrs.publish(text, text, text, jsonb, jsonb, uuid, bigint, timestamptz) IS
	'inserts one event into the outbox and returns its position';

CREATE FUNCTION cqrs.grant_publish(role regrole) RETURNS void
LANGUAGE c VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'cqrs_sql_grant_publish';
COMMENT ON FUNCTION cqrs.grant_publish(regrole) IS
	'grants what a publisher needs on the outbox, and no more';

/* ------------------------------------------------------------ aggregates */

CREATE FUNCTION cqrs.first_transition(state internal, x anyelement) RETURNS internal
LANGUAGE c IMMUTABLE CALLED ON NULL INPUT PARALLEL SAFE
AS 'MODULE_PATHNAME', 'cqrs_sql_first_transition';
COMMENT ON FUNCTION cqrs.first_transition(internal, anyelement) IS 'for the aggregate first(x)';

CREATE FUNCTION cqrs.first_transition(state internal, x anyelement, at_position bigint) RETURNS internal
LANGUAGE c IMMUTABLE CALLED ON NULL INPUT PARALLEL SAFE
AS 'MODULE_PATHNAME', 'cqrs_sql_first_at_transition';
COMMENT ON FUNCTION cqrs.first_transition(internal, anyelement, bigint) IS
	'for the aggregate first(x, at_position)';

CREATE FUNCTION cqrs.last_transition(state anyelement, x anyelement) RETURNS anyelement
LANGUAGE c IMMUTABLE CALLED ON NULL INPUT PARALLEL SAFE
AS 'MODULE_PATHNAME', 'cqrs_sql_last_transition';
COMMENT ON FUNCTION cqrs.last_transition(anyelement, anyelement) IS 'for the aggregate last(x)';

CREATE FUNCTION cqrs.last_transition(state internal, x anyelement, at_position bigint) RETURNS internal
LANGUAGE c IMMUTABLE CALLED ON NULL INPUT PARALLEL SAFE
AS 'MODULE_PATHNAME', 'cqrs_sql_last_at_transition';
COMMENT ON FUNCTION cqrs.last_transition(internal, anyelement, bigint) IS
	'for the aggregate last(x, at_position)';

CREATE FUNCTION cqrs.kept_value(state internal, x anyelement) RETURNS anyelement
LANGUAGE c IMMUTABLE CALLED ON NULL INPUT PARALLEL SAFE
AS 'MODULE_PATHNAME', 'cqrs_sql_kept_value';
COMMENT ON FUNCTION cqrs.kept_value(internal, anyelement) IS 'for the aggregate first(x)';

CREATE FUNCTION cqrs.kept_value(state internal, x anyelement, at_position bigint) RETURNS anyelement
LANGUAGE c IMMUTABLE CALLED ON NULL INPUT PARALLEL SAFE
AS 'MODULE_PATHNAME', 'cqrs_sql_kept_value';
COMMENT ON FUNCTION cqrs.kept_value(internal, anyelement, bigint) IS
	'for the aggregates first(x, at_position) and last(x, at_position)';

/* without SSPACE the planner would expect 8 kB a group, and shun hashing */
CREATE AGGREGATE cqrs.first(x anyelement) (
	SFUNC = cqrs.first_transition, STYPE = internal, SSPACE = 128,
	FINALFUNC = cqrs.kept_value, FINALFUNC_EXTRA,
	PARALLEL = SAFE
);
COMMENT ON AGGREGATE cqrs.first(anyelement) IS 'the first value in the order of input, NULL or not';

CREATE AGGREGATE cqrs.first(x anyelement, at_position bigint) (
	SFUNC = cqrs.first_transition, STYPE = internal, SSPACE = 128,
	FINALFUNC = cqrs.kept_value, FINALFUNC_EXTRA,
	PARALLEL = SAFE
);
COMMENT ON AGGREGATE cqrs.first(anyelement, bigint) IS
	'the value at the smallest position, in whatever order rows come';

CREATE AGGREGATE cqrs.last(x anyelement) (
	SFUNC = cqrs.last_transition, STYPE = anyelement,
	PARALLEL = SAFE
);
COMMENT ON AGGREGATE cqrs.last(anyelement) IS 'the last value in the order of input, NULL or not';

CREATE AGGREGATE cqrs.last(x anyelement, at_position bigint) (
	SFUNC = cqrs.last_transition, STYPE = internal, SSPACE = 128,
	FINALFUNC = cqrs.kept_value, FINALFUNC_EXTRA,
	PARALLEL = SAFE
);
COMMENT ON AGGREGATE cqrs.last(anyelement, bigint) IS
	'the value at the greatest position, in whatever order rows come';

/* ---------------------------------------------------------------- engine */

CREATE TABLE cqrs.registry (
	id integer GENERATED ALWAYS AS IDENTITY,
	name name NOT NULL,
	owner regrole NOT NULL,
	kind text NOT NULL,
	handler text,
	query text,
	read_tables regclass[] NOT NULL,
	state_table regclass,
	mode text NOT NULL,
	event_types text[],
	aggregate_types text[],
	sources text[],
	key text NOT NULL,
	start_at text NOT NULL,
	on_error text NOT NULL,
	notify text NOT NULL,
	batch_size integer,
	segments integer NOT NULL,
	settings text[] NOT NULL,
	created_at timestamptz NOT NULL DEFAULT pg_catalog.now(),
	state text NOT NULL,
	inline_in uuid,
	rebuild_started_at timestamptz,
	parked boolean NOT NULL DEFAULT false,
	parked_retry_at timestamptz,
	retries bigint NOT NULL DEFAULT 0,
	next_retry_at timestamptz,
	last_error text,
	last_error_at timestamptz,
	CONSTRAINT registry_pkey PRIMARY KEY (id),
	CONSTRAINT registry_name_key UNIQUE (name),
	CONSTRAINT registry_handler_or_query CHECK ((handler IS NULL) <> (query IS NULL))
);
COMMENT ON TABLE cqrs.registry IS
	'the projections: definition and state; look at cqrs.projection and cqrs.projection_status';
COMMENT ON COLUMN cqrs.registry.inline_in IS
	'the incarnation in whose era publishers apply their events themselves';

CREATE FUNCTION cqrs.registry_changed() RETURNS trigger
LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'cqrs_sql_registry_changed';
COMMENT ON FUNCTION cqrs.registry_changed() IS
	'tells all processes that the projections changed, however they were';

CREATE TRIGGER cqrs_registry_changed
	AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON cqrs.registry
	FOR EACH STATEMENT EXECUTE FUNCTION cqrs.registry_changed();
ALTER TABLE cqrs.registry ENABLE ALWAYS TRIGGER cqrs_registry_changed;
COMMENT ON TRIGGER cqrs_registry_changed ON cqrs.registry IS
	'also a restore must be heard of';

/*
 * The row is rewritten by every batch: room on the page keeps that a HOT
 * update, and vacuum comes early.
 */
CREATE TABLE cqrs.checkpoint (
	projection integer NOT NULL,
	incarnation uuid NOT NULL,
	first_position bigint NOT NULL,
	done pg_snapshot NOT NULL,
	target pg_snapshot,
	low bigint NOT NULL DEFAULT 0,
	high bigint NOT NULL DEFAULT 0,
	last_position bigint NOT NULL DEFAULT 0,
	peak bigint NOT NULL DEFAULT 0,
	settled bigint NOT NULL DEFAULT 0,
	events_processed bigint NOT NULL DEFAULT 0,
	batches bigint NOT NULL DEFAULT 0,
	CONSTRAINT checkpoint_pkey PRIMARY KEY (projection)
) WITH (fillfactor = 10, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 500);
COMMENT ON TABLE cqrs.checkpoint IS
	'processed = before first_position; from there on visible in done, or in target and not beyond last_position';

CREATE TABLE cqrs.parked (
	projection integer NOT NULL,
	position bigint NOT NULL,
	key text,
	reason text NOT NULL,
	blocks boolean NOT NULL,
	sqlstate text,
	message text,
	context text,
	attempts integer NOT NULL,
	next_retry_at timestamptz,
	parked_at timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
	CONSTRAINT parked_pkey PRIMARY KEY (projection, position)
);
CREATE INDEX parked_key ON cqrs.parked
	(projection, pg_catalog.hashtextextended(COALESCE(key, ''), 0), position);
COMMENT ON TABLE cqrs.parked IS
	'events that were put aside, and those behind them; look at cqrs.dead_letter';
COMMENT ON INDEX cqrs.parked_key IS 'finds the queue of a key, however long the key';

CREATE TABLE cqrs.incarnation (
	id uuid NOT NULL DEFAULT pg_catalog.gen_random_uuid()
);
COMMENT ON TABLE cqrs.incarnation IS
	'one row, made by CREATE EXTENSION and never dumped: transaction ids compare only within it';
INSERT INTO cqrs.incarnation DEFAULT VALUES;

/* no constraint: who publishes first may do so together with others, and not wait */
CREATE TABLE cqrs.era (
	number bigint NOT NULL,
	incarnation uuid NOT NULL,
	first_position bigint NOT NULL
);
COMMENT ON TABLE cqrs.era IS
	'from which position on events have which incarnation''s transaction ids; recorded by who publishes first';

SELECT pg_catalog.pg_extension_config_dump('cqrs.outbox', '');
SELECT pg_catalog.pg_extension_config_dump('cqrs.outbox_position_seq', '');
SELECT pg_catalog.pg_extension_config_dump('cqrs.registry', '');
SELECT pg_catalog.pg_extension_config_dump('cqrs.registry_id_seq', '');
SELECT pg_catalog.pg_extension_config_dump('cqrs.checkpoint', '');
SELECT pg_catalog.pg_extension_config_dump('cqrs.parked', '');
SELECT pg_catalog.pg_extension_config_dump('cqrs.era', '');

CREATE FUNCTION cqrs.guard_read_table() RETURNS trigger
LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'cqrs_sql_guard_read_table';
COMMENT ON FUNCTION cqrs.guard_read_table() IS
	'refuses writes to a read table by anybody but its projection';

CREATE FUNCTION cqrs.guard_drop() RETURNS event_trigger
LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'cqrs_sql_guard_drop';
COMMENT ON FUNCTION cqrs.guard_drop() IS 'refuses to drop a table that a projection maintains';

/* ALWAYS, like the write guard: session_replication_role is no way round */
CREATE EVENT TRIGGER cqrs_drop_guard ON sql_drop EXECUTE FUNCTION cqrs.guard_drop();
ALTER EVENT TRIGGER cqrs_drop_guard ENABLE ALWAYS;
COMMENT ON EVENT TRIGGER cqrs_drop_guard IS
	'a read table goes with its projection: cqrs.drop_projection';

CREATE FUNCTION cqrs.guard_names() RETURNS event_trigger
LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'cqrs_sql_guard_names';
COMMENT ON FUNCTION cqrs.guard_names() IS
	'follows what gets another name; keeps what views and keys name';

CREATE EVENT TRIGGER cqrs_names_before ON ddl_command_start
	WHEN TAG IN ('ALTER AGGREGATE', 'ALTER COLLATION', 'ALTER DOMAIN', 'ALTER EXTENSION',
		'ALTER FUNCTION', 'ALTER OPERATOR', 'ALTER ROUTINE', 'ALTER SCHEMA', 'ALTER TABLE',
		'ALTER TEXT SEARCH CONFIGURATION', 'ALTER TYPE', 'CREATE AGGREGATE', 'CREATE CAST',
		'CREATE DOMAIN', 'CREATE FUNCTION', 'CREATE OPERATOR', 'CREATE RULE', 'CREATE TYPE',
		'DROP AGGREGATE', 'DROP CAST', 'DROP COLLATION', 'DROP DOMAIN', 'DROP EXTENSION',
		'DROP FUNCTION', 'DROP OPERATOR', 'DROP OWNED', 'DROP ROUTINE', 'DROP SCHEMA',
		'DROP TYPE')
	EXECUTE FUNCTION cqrs.guard_names();
ALTER EVENT TRIGGER cqrs_names_before ENABLE ALWAYS;
COMMENT ON EVENT TRIGGER cqrs_names_before IS 'notes what names mean';

CREATE EVENT TRIGGER cqrs_names_after ON ddl_command_end
	WHEN TAG IN ('ALTER AGGREGATE', 'ALTER COLLATION', 'ALTER DOMAIN', 'ALTER EXTENSION',
		'ALTER FUNCTION', 'ALTER OPERATOR', 'ALTER ROUTINE', 'ALTER SCHEMA', 'ALTER TABLE',
		'ALTER TEXT SEARCH CONFIGURATION', 'ALTER TYPE', 'CREATE AGGREGATE', 'CREATE CAST',
		'CREATE DOMAIN', 'CREATE FUNCTION', 'CREATE OPERATOR', 'CREATE RULE', 'CREATE TYPE',
		'DROP AGGREGATE', 'DROP CAST', 'DROP COLLATION', 'DROP DOMAIN', 'DROP EXTENSION',
		'DROP FUNCTION', 'DROP OPERATOR', 'DROP OWNED', 'DROP ROUTINE', 'DROP SCHEMA',
		'DROP TYPE')
	EXECUTE FUNCTION cqrs.guard_names();
ALTER EVENT TRIGGER cqrs_names_after ENABLE ALWAYS;
COMMENT ON EVENT TRIGGER cqrs_names_after IS 'follows what has another name';

CREATE FUNCTION cqrs.apply_inline() RETURNS trigger
LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'cqrs_inline_trigger_apply';
COMMENT ON FUNCTION cqrs.apply_inline() IS
	'applies the events of one statement to the inline projections';
REVOKE ALL ON FUNCTION cqrs.guard_outbox(), cqrs.guard_read_table(), cqrs.guard_drop(),
	cqrs.guard_names(), cqrs.apply_inline(), cqrs.registry_changed() FROM PUBLIC;

/* ----------------------------------------------------------- projections */

CREATE FUNCTION cqrs.create_projection(
	name name, handler regprocedure, read_tables regclass[],
	mode text DEFAULT 'async',
	event_types text[] DEFAULT NULL,
	aggregate_types text[] DEFAULT NULL,
	sources text[] DEFAULT NULL,
	key text DEFAULT 'aggregate_id',
	start_at text DEFAULT 'beginning',
	on_error text DEFAULT 'park',
	notify text DEFAULT 'keys',
	batch_size integer DEFAULT NULL,
	segments integer DEFAULT 1)
RETURNS void
LANGUAGE c VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'cqrs_sql_create_projection';
COMMENT ON FUNCTION cqrs.create_projection(name, regprocedure, regclass[], text, text[], text[],
	text[], text, text, text, text, integer, integer) IS
	'registers a projection: its handler keeps its read tables from the events';

CREATE FUNCTION cqrs.create_view(
	name name, query text,
	mode text DEFAULT 'async',
	event_types text[] DEFAULT NULL,
	aggregate_types text[] DEFAULT NULL,
	sources text[] DEFAULT NULL,
	start_at text DEFAULT 'beginning',
	on_error text DEFAULT 'park',
	notify text DEFAULT 'keys',
	batch_size integer DEFAULT NULL,
	segments integer DEFAULT 1)
RETURNS regclass
LANGUAGE c VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'cqrs_sql_create_view';
COMMENT ON FUNCTION cqrs.create_view(name, text, text, text[], text[], text[], text, text, text,
	integer, integer) IS
	'makes a read table that always equals a query over the events';

CREATE FUNCTION cqrs.view_definition(name name) RETURNS text
LANGUAGE c STABLE CALLED ON NULL INPUT PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'cqrs_sql_view_definition';
COMMENT ON FUNCTION cqrs.view_definition(name) IS 'the query that a view was created with';

CREATE FUNCTION cqrs.alter_projection(
	name name,
	mode text DEFAULT NULL,
	event_types text[] DEFAULT NULL,
	aggregate_types text[] DEFAULT NULL,
	sources text[] DEFAULT NULL,
	key text DEFAULT NULL,
	on_error text DEFAULT NULL,
	notify text DEFAULT NULL,
	batch_size integer DEFAULT NULL,
	segments integer DEFAULT NULL,
	handler regprocedure DEFAULT NULL,
	new_name name DEFAULT NULL)
RETURNS void
LANGUAGE c VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'cqrs_sql_alter_projection';
COMMENT ON FUNCTION cqrs.alter_projection(name, text, text[], text[], text[], text, text, text,
	integer, integer, regprocedure, name) IS
	'changes a projection''s settings from its checkpoint on; NULL leaves one as it is';

CREATE FUNCTION cqrs.drop_projection(name name, drop_read_tables boolean DEFAULT false)
RETURNS void
LANGUAGE c VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'cqrs_sql_drop_projection';
COMMENT ON FUNCTION cqrs.drop_projection(name, boolean) IS
	'removes a projection; its read tables become ordinary tables, or go too';

CREATE FUNCTION cqrs.pause_projection(name name) RETURNS void
LANGUAGE c VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'cqrs_sql_pause_projection';
COMMENT ON FUNCTION cqrs.pause_projection(name) IS
	'stops processing until resume_projection, across restarts';

CREATE FUNCTION cqrs.resume_projection(name name) RETURNS void
LANGUAGE c VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'cqrs_sql_resume_projection';
COMMENT ON FUNCTION cqrs.resume_projection(name) IS
	'lets a paused or stopped projection go on from its checkpoint';

CREATE FUNCTION cqrs.retry_dead_letters(name name, key text DEFAULT NULL) RETURNS bigint
LANGUAGE c VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'cqrs_sql_retry_dead_letters';
COMMENT ON FUNCTION cqrs.retry_dead_letters(name, text) IS
	'applies parked events in order, up to the first of a key that fails again; returns how many';

CREATE FUNCTION cqrs.discard_dead_letters(name name, key text, up_to_position bigint DEFAULT NULL)
RETURNS bigint
LANGUAGE c VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'cqrs_sql_discard_dead_letters';
COMMENT ON FUNCTION cqrs.discard_dead_letters(name, text, bigint) IS
	'forgets parked events of a key; returns how many';

CREATE PROCEDURE cqrs.rebuild_projection(name name, online boolean DEFAULT false)
LANGUAGE c
AS 'MODULE_PATHNAME', 'cqrs_sql_rebuild_projection';
COMMENT ON PROCEDURE cqrs.rebuild_projection(name, boolean) IS
	'computes the read tables again from the first event, committing as it goes';

CREATE PROCEDURE cqrs.catch_up(name name DEFAULT NULL)
LANGUAGE c
AS 'MODULE_PATHNAME', 'cqrs_sql_catch_up';
COMMENT ON PROCEDURE cqrs.catch_up(name) IS
	'processes in this session all that was committed before the call, a transaction per batch';

CREATE FUNCTION cqrs.wait_for(
	name name, timeout interval DEFAULT '10 seconds', up_to_position bigint DEFAULT NULL)
RETURNS boolean
LANGUAGE c VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'cqrs_sql_wait_for';
COMMENT ON FUNCTION cqrs.wait_for(name, interval, bigint) IS
	'waits until all events committed before the call are processed; false at the timeout';

/*
 * The reducer comes first in all of them: with the state before it, a call with
 * three literals would not be unique.
 */
CREATE FUNCTION cqrs.fold(handler regprocedure, VARIADIC events cqrs.event[]) RETURNS record
LANGUAGE c VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'cqrs_sql_fold_events';
COMMENT ON FUNCTION cqrs.fold(regprocedure, cqrs.event[]) IS
	'the state that a reducer makes of events, in their order in the array';

CREATE FUNCTION cqrs.fold(handler regprocedure, state anyelement, VARIADIC events cqrs.event[])
RETURNS anyelement
LANGUAGE c VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'cqrs_sql_fold_events_from';
COMMENT ON FUNCTION cqrs.fold(regprocedure, anyelement, cqrs.event[]) IS
	'the state that a reducer makes of a state and events';

CREATE FUNCTION cqrs.fold(handler regprocedure, aggregate_id text, aggregate_type text DEFAULT NULL)
RETURNS record
LANGUAGE c VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'cqrs_sql_fold_aggregate';
COMMENT ON FUNCTION cqrs.fold(regprocedure, text, text) IS
	'the state that a reducer makes of an aggregate''s events in the outbox, the caller''s own included';

CREATE FUNCTION cqrs.fold(
	handler regprocedure, state anyelement, aggregate_id text,
	aggregate_type text DEFAULT NULL, after_position bigint DEFAULT 0)
RETURNS anyelement
LANGUAGE c VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'cqrs_sql_fold_aggregate_from';
COMMENT ON FUNCTION cqrs.fold(regprocedure, anyelement, text, text, bigint) IS
	'the state that a reducer makes of a state and an aggregate''s events beyond a position';

/* --------------------------------------------------------------- sources */

CREATE TABLE cqrs.attachment (
	relation regclass NOT NULL,
	source text NOT NULL,
	format text NOT NULL,
	mapping jsonb,
	columns text[] NOT NULL DEFAULT '{}',
	owner regrole NOT NULL,
	settings text[] NOT NULL,
	attached_at timestamptz NOT NULL DEFAULT pg_catalog.now(),
	CONSTRAINT attachment_pkey PRIMARY KEY (relation)
);
COMMENT ON TABLE cqrs.attachment IS
	'the tables whose rows become events; look at cqrs.source_status';
COMMENT ON COLUMN cqrs.attachment.columns IS
	'those of the table that the format takes events from: they can''t be lost without an error';

CREATE TABLE cqrs.received (
	source text NOT NULL,
	event_id uuid NOT NULL,
	position bigint,
	CONSTRAINT received_pkey PRIMARY KEY (source, event_id)
);
COMMENT ON TABLE cqrs.received IS
	'the events that attached tables have brought, so that none is taken twice; those without a position were put aside';

/* updated once a transaction: room on the page keeps that a HOT update */
CREATE TABLE cqrs.arrival (
	id uuid NOT NULL DEFAULT pg_catalog.gen_random_uuid(),
	relation regclass NOT NULL,
	source text NOT NULL,
	events bigint NOT NULL,
	duplicates bigint NOT NULL,
	last_position bigint NOT NULL,
	last_event_id uuid,
	last_event_at timestamptz,
	last_received_at timestamptz
) WITH (fillfactor = 10, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 500);
COMMENT ON TABLE cqrs.arrival IS
	'counters of what attached tables have brought: several rows a table, to be summed';

CREATE TABLE cqrs.parked_row (
	number bigint GENERATED ALWAYS AS IDENTITY,
	relation regclass NOT NULL,
	source text NOT NULL,
	event_id uuid NOT NULL,
	key text,
	row json NOT NULL,
	reason text NOT NULL,
	sqlstate text,
	message text,
	context text,
	attempts integer NOT NULL,
	parked_at timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
	CONSTRAINT parked_row_pkey PRIMARY KEY (number)
);
CREATE INDEX parked_row_key ON cqrs.parked_row
	(relation, pg_catalog.hashtextextended(COALESCE(key, ''), 0), number);
COMMENT ON TABLE cqrs.parked_row IS
	'rows of attached tables that could not be made events, and those behind them; look at cqrs.source_dead_letter';
COMMENT ON INDEX cqrs.parked_row_key IS 'finds the queue of a key, however long the key';

SELECT pg_catalog.pg_extension_config_dump('cqrs.attachment', '');
SELECT pg_catalog.pg_extension_config_dump('cqrs.received', '');
SELECT pg_catalog.pg_extension_config_dump('cqrs.arrival', '');
SELECT pg_catalog.pg_extension_config_dump('cqrs.parked_row', '');
SELECT pg_catalog.pg_extension_config_dump('cqrs.parked_row_number_seq', '');

CREATE FUNCTION cqrs.attachment_changed() RETURNS trigger
LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'cqrs_sql_attachment_changed';
COMMENT ON FUNCTION cqrs.attachment_changed() IS
	'tells all processes that the attached tables changed, however they were';

CREATE TRIGGER cqrs_attachment_changed
	AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON cqrs.attachment
	FOR EACH STATEMENT EXECUTE FUNCTION cqrs.attachment_changed();
ALTER TABLE cqrs.attachment ENABLE ALWAYS TRIGGER cqrs_attachment_changed;
COMMENT ON TRIGGER cqrs_attachment_changed ON cqrs.attachment IS
	'also a restore must be heard of';

CREATE FUNCTION cqrs.receive() RETURNS trigger
LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'cqrs_sql_receive';
COMMENT ON FUNCTION cqrs.receive() IS 'makes events of the rows that arrive in an attached table';

CREATE FUNCTION cqrs.guard_alter() RETURNS event_trigger
LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'cqrs_sql_guard_alter';
COMMENT ON FUNCTION cqrs.guard_alter() IS
	'refuses to alter an attached table so that its mapping fails';

CREATE EVENT TRIGGER cqrs_alter_guard ON ddl_command_end WHEN TAG IN ('ALTER TABLE')
	EXECUTE FUNCTION cqrs.guard_alter();
ALTER EVENT TRIGGER cqrs_alter_guard ENABLE ALWAYS;
COMMENT ON EVENT TRIGGER cqrs_alter_guard IS
	'an attached table keeps the columns that its mapping names';
REVOKE ALL ON FUNCTION cqrs.attachment_changed(), cqrs.receive(), cqrs.guard_alter() FROM PUBLIC;

CREATE FUNCTION cqrs.attach_outbox(
	relation regclass, source text,
	format text DEFAULT 'cqrs_views',
	mapping jsonb DEFAULT NULL,
	existing_rows text DEFAULT 'take')
RETURNS bigint
LANGUAGE c VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'cqrs_sql_attach_outbox';
COMMENT ON FUNCTION cqrs.attach_outbox(regclass, text, text, jsonb, text) IS
	'makes events of the rows that arrive in a table, each once; returns how many there were already';

CREATE FUNCTION cqrs.detach_outbox(relation regclass) RETURNS void
LANGUAGE c VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'cqrs_sql_detach_outbox';
COMMENT ON FUNCTION cqrs.detach_outbox(regclass) IS
	'takes a table''s rows no more; what was taken stays known';

CREATE FUNCTION cqrs.retry_source_dead_letters(relation regclass, key text DEFAULT NULL)
RETURNS bigint
LANGUAGE c VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'cqrs_sql_retry_source_dead_letters';
COMMENT ON FUNCTION cqrs.retry_source_dead_letters(regclass, text) IS
	'makes events of rows that were put aside, up to the first of a key that fails again; returns how many';

CREATE FUNCTION cqrs.discard_source_dead_letters(
	relation regclass, key text, up_to_number bigint DEFAULT NULL)
RETURNS bigint
LANGUAGE c VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'cqrs_sql_discard_source_dead_letters';
COMMENT ON FUNCTION cqrs.discard_source_dead_letters(regclass, text, bigint) IS
	'forgets rows of a key that were put aside; returns how many';

/* ------------------------------------------------------------ to look at */

CREATE VIEW cqrs.projection AS
SELECT r.name, pg_catalog.pg_get_userbyid(r.owner) AS owner, r.kind, r.handler, r.query, r.mode,
	r.event_types, r.aggregate_types, r.sources, r.key, r.start_at, r.on_error,
	r.notify, r.batch_size, r.segments, r.read_tables
FROM cqrs.registry r;
COMMENT ON VIEW cqrs.projection IS 'the projections'' definitions';

CREATE FUNCTION cqrs.get_projection_status(
	OUT name name, OUT mode text, OUT kind text, OUT state text,
	OUT events_pending bigint, OUT lag interval, OUT last_position bigint,
	OUT events_processed bigint, OUT batches bigint, OUT events_parked bigint,
	OUT retries bigint, OUT next_retry_at timestamptz,
	OUT last_error text, OUT last_error_at timestamptz, OUT read_tables regclass[])
RETURNS SETOF record
LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'cqrs_sql_get_projection_status';
COMMENT ON FUNCTION cqrs.get_projection_status() IS 'what the view projection_status shows';

CREATE VIEW cqrs.projection_status AS
SELECT s.name, s.mode, s.kind, s.state, s.events_pending, s.lag, s.last_position,
	s.events_processed, s.batches, s.events_parked, s.retries, s.next_retry_at,
	s.last_error, s.last_error_at, s.read_tables
FROM cqrs.get_projection_status() s;
COMMENT ON VIEW cqrs.projection_status IS
	'how far each projection is; last_error only for its owner and monitors';

CREATE FUNCTION cqrs.reset_stats(name name) RETURNS void
LANGUAGE c VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'cqrs_sql_reset_stats';
COMMENT ON FUNCTION cqrs.reset_stats(name) IS 'sets a projection''s counters to zero';

CREATE FUNCTION cqrs.get_worker_status(
	OUT pid integer, OUT database name, OUT activity text, OUT since timestamptz)
RETURNS SETOF record
LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'cqrs_sql_get_worker_status';
COMMENT ON FUNCTION cqrs.get_worker_status() IS 'what the view worker_status shows';

CREATE VIEW cqrs.worker_status AS
SELECT w.pid, w.database, w.activity, w.since
FROM cqrs.get_worker_status() w;
COMMENT ON VIEW cqrs.worker_status IS 'the background workers of all databases, and what each does now';

CREATE FUNCTION cqrs.get_rebuild_progress(
	OUT projection name, OUT phase text, OUT events_done bigint, OUT events_total bigint,
	OUT rate double precision, OUT eta interval)
RETURNS SETOF record
LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'cqrs_sql_get_rebuild_progress';
COMMENT ON FUNCTION cqrs.get_rebuild_progress() IS 'what the view rebuild_progress shows';

CREATE VIEW cqrs.rebuild_progress AS
SELECT p.projection, p.phase, p.events_done, p.events_total, p.rate, p.eta
FROM cqrs.get_rebuild_progress() p;
COMMENT ON VIEW cqrs.rebuild_progress IS
	'rebuilds under way; events are estimated from positions, rate is events per second';

/* A key's queue is no dead letter as long as workers try its first event again. */
CREATE VIEW cqrs.dead_letter WITH (security_barrier) AS
SELECT r.name AS projection, p.key, p.position, p.reason, p.sqlstate, p.message, p.context,
	p.attempts, p.parked_at
FROM cqrs.parked p JOIN cqrs.registry r ON r.id = p.projection
WHERE (pg_catalog.pg_has_role(r.owner::oid, 'USAGE') OR pg_catalog.pg_has_role('pg_read_all_stats', 'USAGE'))
AND NOT EXISTS (
	SELECT FROM cqrs.parked f
	WHERE f.projection = p.projection AND f.key IS NOT DISTINCT FROM p.key
	AND pg_catalog.hashtextextended(COALESCE(f.key, ''), 0) = pg_catalog.hashtextextended(COALESCE(p.key, ''), 0)
	AND f.next_retry_at IS NOT NULL);
COMMENT ON VIEW cqrs.dead_letter IS
	'events that were put aside: those that failed, and those behind them; for the projection''s owner and monitors';

/* The counters of the subscriptions that feed a table are summed. */
CREATE VIEW cqrs.source_status AS
SELECT a.source, a.relation, a.format, n.events, n.duplicates, p.rows_parked,
	l.last_event_id, NULLIF(l.last_position, 0) AS last_position, l.last_event_at,
	l.last_received_at,
	CASE WHEN pg_catalog.isfinite(l.last_event_at) THEN l.last_received_at - l.last_event_at END AS lag,
	s.subscriptions, s.subscription_state, s.last_message_at, s.apply_errors, s.sync_errors
FROM cqrs.attachment a
CROSS JOIN LATERAL (
	SELECT COALESCE(pg_catalog.sum(r.events), 0)::bigint AS events,
		COALESCE(pg_catalog.sum(r.duplicates), 0)::bigint AS duplicates
	FROM cqrs.arrival r WHERE r.relation = a.relation AND r.source = a.source) n
LEFT JOIN LATERAL (
	SELECT r.last_event_id, r.last_position, r.last_event_at, r.last_received_at
	FROM cqrs.arrival r WHERE r.relation = a.relation AND r.source = a.source
	ORDER BY r.last_position DESC LIMIT 1) l ON true
CROSS JOIN LATERAL (
	SELECT pg_catalog.count(*) AS rows_parked
	FROM cqrs.parked_row p WHERE p.relation = a.relation) p
CROSS JOIN LATERAL (
	SELECT pg_catalog.array_agg(u.subname ORDER BY u.subname) AS subscriptions,
		pg_catalog.min(CASE WHEN NOT u.subenabled THEN 'disabled' WHEN w.pid IS NULL THEN 'down'
			WHEN r.srsubstate IN ('r', 's') THEN 'streaming' ELSE 'copying' END) AS subscription_state,
		pg_catalog.max(w.last_msg_receipt_time) AS last_message_at,
		pg_catalog.sum(c.apply_error_count)::bigint AS apply_errors,
		pg_catalog.sum(c.sync_error_count)::bigint AS sync_errors
	FROM pg_catalog.pg_subscription_rel r
	JOIN pg_catalog.pg_subscription u ON u.oid = r.srsubid
	CROSS JOIN LATERAL (
		SELECT pg_catalog.max(t.pid) AS pid, pg_catalog.max(t.last_msg_receipt_time) AS last_msg_receipt_time
		FROM pg_catalog.pg_stat_subscription t WHERE t.subid = u.oid AND t.relid IS NULL) w
	LEFT JOIN pg_catalog.pg_stat_subscription_stats c ON c.subid = u.oid
	WHERE r.srrelid = a.relation) s;
COMMENT ON VIEW cqrs.source_status IS
	'what each attached table has brought, and how the subscription that feeds it does';

CREATE VIEW cqrs.source_dead_letter WITH (security_barrier) AS
SELECT p.source, p.relation, p.number, p.key, p.event_id, p.reason, p.sqlstate, p.message,
	p.context, p.attempts, p.parked_at,
	CASE WHEN pg_catalog.pg_has_role(c.relowner, 'USAGE') THEN p.row END AS row
FROM cqrs.parked_row p LEFT JOIN pg_catalog.pg_class c ON c.oid = p.relation
WHERE pg_catalog.pg_has_role(c.relowner, 'USAGE') OR pg_catalog.pg_has_role('pg_read_all_stats', 'USAGE');
COMMENT ON VIEW cqrs.source_dead_letter IS
	'rows of attached tables that could not be made events, and those behind them; for the table''s owner and monitors';

GRANT SELECT ON cqrs.dead_letter, cqrs.projection, cqrs.projection_status, cqrs.worker_status,
	cqrs.rebuild_progress, cqrs.source_status, cqrs.source_dead_letter TO PUBLIC;

/*
 * Tells the launcher, when this commits, that the database has the extension. (A
 * publisher would tell it, too, but begin an era before a restore has brought the
 * older ones.)
 */
DELETE FROM cqrs.registry;
