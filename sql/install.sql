-- What CREATE EXTENSION brings, who may use it, and what DROP EXTENSION leaves.
CREATE EXTENSION IF NOT EXISTS cqrs_views;
SELECT extname, extrelocatable FROM pg_extension WHERE extname = 'cqrs_views';

-- every object that a user needs
SELECT p.oid::regprocedure AS routine, p.prorettype::regtype AS returns
FROM pg_proc p WHERE pronamespace = 'cqrs'::regnamespace
AND proname !~ '^(get|guard|apply)_|_transition$|^kept_value$'
ORDER BY p.proname COLLATE "C", p.pronargs, p.oid::regprocedure::text COLLATE "C";
SELECT c.oid::regclass AS relation, relkind FROM pg_class c
WHERE oid = ANY (ARRAY['cqrs.event', 'cqrs.outbox', 'cqrs.projection', 'cqrs.projection_status',
	'cqrs.worker_status', 'cqrs.rebuild_progress']::regclass[])
ORDER BY relname COLLATE "C";
SELECT attname, format_type(atttypid, atttypmod) AS type FROM pg_attribute
WHERE attrelid = 'cqrs.event'::regclass AND attnum > 0 ORDER BY attnum;

-- every member has a comment; arrays, row types and sequences are their tables' business
SELECT pg_describe_object(classid, objid, 0) AS uncommented
FROM pg_depend d
WHERE refclassid = 'pg_extension'::regclass AND deptype = 'e'
AND refobjid = (SELECT oid FROM pg_extension WHERE extname = 'cqrs_views')
AND obj_description(objid, classid::regclass::name) IS NULL
AND NOT (classid = 'pg_type'::regclass AND EXISTS
	(SELECT FROM pg_type t LEFT JOIN pg_class c ON c.oid = t.typrelid
	WHERE t.oid = objid AND (t.typcategory = 'A' OR c.relkind <> 'c')))
AND NOT (classid = 'pg_class'::regclass AND EXISTS
	(SELECT FROM pg_class c WHERE c.oid = objid AND c.relkind IN ('S', 'c')))
ORDER BY 1;

-- nothing runs with its owner's rights, only the aggregates are called in a parallel worker
SELECT p.oid::regprocedure FROM pg_proc p
WHERE pronamespace = 'cqrs'::regnamespace AND (proparallel <> 'u' OR prosecdef)
AND proname !~ '^(first|last)(_transition)?$|^kept_value$';

-- PUBLIC gets the schema, the views, and functions that check rights themselves
CREATE ROLE regress_nobody;
SELECT has_schema_privilege('regress_nobody', 'cqrs', 'USAGE') AS usage,
	has_schema_privilege('regress_nobody', 'cqrs', 'CREATE') AS create;
SELECT c.oid::regclass AS relation FROM pg_class c
WHERE relnamespace = 'cqrs'::regnamespace AND relkind IN ('r', 'v', 'S', 'p')
AND CASE WHEN relkind = 'S' THEN has_sequence_privilege('regress_nobody', oid, 'USAGE, SELECT, UPDATE')
	ELSE has_table_privilege('regress_nobody', oid, 'SELECT, INSERT, UPDATE, DELETE, TRUNCATE, REFERENCES, TRIGGER')
	OR has_any_column_privilege('regress_nobody', oid, 'SELECT, INSERT, UPDATE, REFERENCES') END
ORDER BY relname COLLATE "C";
SELECT p.oid::regprocedure AS forbidden FROM pg_proc p
WHERE pronamespace = 'cqrs'::regnamespace AND NOT has_function_privilege('regress_nobody', oid, 'EXECUTE')
ORDER BY proname COLLATE "C";
SET ROLE regress_nobody;
SELECT * FROM cqrs.projection;
SELECT * FROM cqrs.rebuild_progress;
SELECT count(*) FROM cqrs.projection_status;
SELECT count(*) >= 0 AS looked FROM cqrs.worker_status;
SELECT * FROM cqrs.outbox; \echo :SQLSTATE
SELECT * FROM cqrs.registry; \echo :SQLSTATE
SELECT * FROM cqrs.checkpoint; \echo :SQLSTATE
RESET ROLE;
DROP ROLE regress_nobody;

-- trigger functions are nothing to call, and nothing for other tables
SELECT cqrs.guard_outbox(); \echo :SQLSTATE
CREATE TABLE stranger (a int);
CREATE TRIGGER apply AFTER INSERT ON stranger EXECUTE FUNCTION cqrs.apply_inline();
INSERT INTO stranger VALUES (1); \echo :SQLSTATE
DROP TABLE stranger;

-- a dropped extension leaves read tables, as ordinary tables, and comes back new
CREATE TABLE orders (id text PRIMARY KEY);
CREATE FUNCTION on_order(e cqrs.event) RETURNS void LANGUAGE sql
	AS 'INSERT INTO public.orders VALUES (e.aggregate_id)';
SELECT cqrs.create_projection('orders', 'on_order(cqrs.event)', '{orders}');
SELECT cqrs.publish('Order', 'o1', 'Placed') > 0 AS published;
CALL cqrs.catch_up('orders');
\set VERBOSITY terse
DROP EXTENSION cqrs_views; \echo :SQLSTATE
\set VERBOSITY default
DROP FUNCTION on_order(cqrs.event);
DROP EXTENSION cqrs_views;
SELECT count(*) FROM pg_namespace WHERE nspname = 'cqrs';
SELECT tgname FROM pg_trigger WHERE tgrelid = 'orders'::regclass;
INSERT INTO orders VALUES ('by hand');
SELECT * FROM orders;
CREATE EXTENSION cqrs_views;
SELECT * FROM cqrs.projection;
SELECT cqrs.publish('Order', 'o2', 'Placed') AS first_position;
DROP TABLE orders;
DROP EXTENSION cqrs_views;

-- a schema of that name that is somebody else's stays so
CREATE SCHEMA cqrs;
\set VERBOSITY terse
CREATE EXTENSION cqrs_views; \echo :SQLSTATE
\set VERBOSITY default
DROP SCHEMA cqrs;
