-- cqrs.fold: what it refuses, what it needs, and how it tells where a reducer failed.
CREATE EXTENSION IF NOT EXISTS cqrs_views;
CREATE TABLE orders (order_id text PRIMARY KEY, n int);
CREATE TABLE other (order_id text PRIMARY KEY, n int);
CREATE FUNCTION reduce(s orders, e cqrs.event) RETURNS orders LANGUAGE plpgsql AS $$
BEGIN
	s.n := coalesce(s.n, 0) + 1 / (e.payload->>'n')::int;
	RETURN s;
END $$;
SELECT count(cqrs.publish('Order', 'o1', 'Placed', jsonb_build_object('n', n))) FROM unnest('{1,1,0}'::int[]) AS n;

-- functions
SELECT cqrs.fold(NULL, 'o1'); \echo :SQLSTATE
SELECT cqrs.fold(0, 'o1'); \echo :SQLSTATE
CREATE FUNCTION handle(e cqrs.event) RETURNS void LANGUAGE sql AS '';
SELECT cqrs.fold('handle(cqrs.event)', 'o1'); \echo :SQLSTATE
CREATE FUNCTION reduce_set(s orders, e cqrs.event) RETURNS SETOF orders LANGUAGE sql AS 'SELECT s';
SELECT cqrs.fold('reduce_set(orders,cqrs.event)', 'o1'); \echo :SQLSTATE
CREATE FUNCTION reduce_strict(s orders, e cqrs.event) RETURNS orders STRICT LANGUAGE sql AS 'SELECT s';
SELECT cqrs.fold('reduce_strict(orders,cqrs.event)', 'o1'); \echo :SQLSTATE
CREATE DOMAIN order_domain AS orders;
CREATE FUNCTION reduce_domain(s order_domain, e cqrs.event) RETURNS order_domain LANGUAGE plpgsql AS 'BEGIN RETURN s; END';
SELECT cqrs.fold('reduce_domain(order_domain,cqrs.event)', 'o1'); \echo :SQLSTATE
CREATE FUNCTION reduce_jsonb(s jsonb, e cqrs.event) RETURNS jsonb LANGUAGE sql AS 'SELECT e.payload';
SELECT cqrs.fold('reduce_jsonb(jsonb,cqrs.event)', 'o1'); \echo :SQLSTATE

-- arguments
SELECT cqrs.fold('reduce(orders,cqrs.event)', NULL::text); \echo :SQLSTATE
SELECT cqrs.fold('reduce(orders,cqrs.event)', NULL, 'o1'); \echo :SQLSTATE
SELECT cqrs.fold('reduce(orders,cqrs.event)', VARIADIC ARRAY[NULL]::cqrs.event[]); \echo :SQLSTATE
SELECT cqrs.fold('reduce(orders,cqrs.event)', NULL::other, 'o1'); \echo :SQLSTATE
SELECT cqrs.fold('reduce(orders,cqrs.event)', 1, 'o1'); \echo :SQLSTATE
SELECT cqrs.fold('reduce(orders,cqrs.event)', NULL::order_domain, 'o1'); \echo :SQLSTATE

-- the reducer fails: at which event
SELECT cqrs.fold('reduce(orders,cqrs.event)', 'o1'); \echo :SQLSTATE
SELECT cqrs.fold('reduce(orders,cqrs.event)', VARIADIC ARRAY(SELECT ROW(NULL, NULL, NULL, NULL, 'x', NULL, NULL, jsonb_build_object('n', n), NULL, NULL)::cqrs.event
	FROM unnest('{1,0}'::int[]) AS n)); \echo :SQLSTATE

-- rights: the function, and for an aggregate id the outbox; it runs as the caller
CREATE ROLE regress_folder;
CREATE FUNCTION who(s orders, e cqrs.event) RETURNS orders LANGUAGE sql AS $$ SELECT current_user::text, coalesce(s.n, 0) + 1 $$;
REVOKE EXECUTE ON FUNCTION who FROM PUBLIC;
SET ROLE regress_folder;
SELECT cqrs.fold('who(orders,cqrs.event)', 'o1'); \echo :SQLSTATE
RESET ROLE;
GRANT EXECUTE ON FUNCTION who TO regress_folder;
SELECT cqrs.grant_publish('regress_folder');
SET ROLE regress_folder;
SELECT cqrs.fold('who(orders,cqrs.event)', 'o1'); \echo :SQLSTATE
SELECT cqrs.fold('who(orders,cqrs.event)', ROW(NULL, NULL, NULL, NULL, 'x', NULL, NULL, NULL, NULL, NULL)::cqrs.event);
RESET ROLE;
GRANT SELECT ON cqrs.outbox TO regress_folder;
SET ROLE regress_folder;
SELECT cqrs.fold('who(orders,cqrs.event)', 'o1');
RESET ROLE;
-- in a read-only transaction, and in a STABLE function
BEGIN READ ONLY;
SELECT cqrs.fold('who(orders,cqrs.event)', 'o1');
COMMIT;
CREATE FUNCTION stable_fold() RETURNS text LANGUAGE plpgsql STABLE AS $$ BEGIN RETURN cqrs.fold('who(orders,cqrs.event)', 'o1'); END $$;
SELECT stable_fold() = cqrs.fold('who(orders,cqrs.event)', 'o1')::text AS same;

DROP OWNED BY regress_folder;
DROP ROLE regress_folder;
DROP TABLE orders, other CASCADE;
DROP FUNCTION handle, reduce_jsonb, stable_fold;
DROP EXTENSION cqrs_views;
