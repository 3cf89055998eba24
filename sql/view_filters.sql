-- What a query says of an event's types and source becomes the projection's filter, where that is provably the same.
CREATE EXTENSION IF NOT EXISTS cqrs_views;
CREATE COLLATION case_blind (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
CREATE FUNCTION filters_of(query text, given text[] DEFAULT NULL, OUT event_types text, OUT aggregate_types text, OUT sources text)
LANGUAGE plpgsql AS $$
BEGIN
	PERFORM cqrs.create_view('v', query, event_types => given);
	SELECT p.event_types, p.aggregate_types, p.sources INTO event_types, aggregate_types, sources FROM cqrs.projection p;
	PERFORM cqrs.drop_projection('v', drop_read_tables => true);
END $$;

-- conditions of WHERE
SELECT * FROM filters_of($$ SELECT position FROM events WHERE event_type = 'A' AND 'T' = aggregate_type AND source IN ('s1', 's2') $$);
SELECT * FROM filters_of($$ SELECT position FROM events WHERE event_type = ANY ('{A,B}') AND payload ? 'x' $$);
SELECT * FROM filters_of($$ SELECT position FROM events WHERE event_type = 'A' OR event_type IN ('B', 'A') $$);
SELECT * FROM filters_of($$ SELECT aggregate_id, count(*) FROM events WHERE (event_type = 'A' AND payload ? 'x') OR (event_type = 'B' AND aggregate_type = 'T') GROUP BY 1 $$);
SELECT * FROM filters_of($$ SELECT position FROM events WHERE event_type = 'A' OR event_type = NULL $$);
-- that say nothing for sure
SELECT * FROM filters_of($$ SELECT position FROM events WHERE event_type = 'A' OR aggregate_type = 'T' $$);
SELECT * FROM filters_of($$ SELECT position FROM events WHERE NOT event_type = 'A' AND aggregate_type <> 'T' $$);
SELECT * FROM filters_of($$ SELECT position FROM events WHERE event_type = payload->>'x' AND source > 's' $$);
SELECT * FROM filters_of($$ SELECT position FROM events WHERE event_type = NULL $$);
SELECT * FROM filters_of($$ SELECT position FROM events WHERE event_type = 'a' COLLATE case_blind $$);
-- FILTER: in a view of one row, if there is one everywhere; but a group appears with its first event, counted or not
SELECT * FROM filters_of($$ SELECT count(*) FILTER (WHERE event_type = 'A') AS a, sum(position) FILTER (WHERE event_type IN ('B', 'A')) AS b FROM events $$);
SELECT * FROM filters_of($$ SELECT count(*) FILTER (WHERE event_type = 'A') AS a, sum(position) AS b FROM events $$);
SELECT * FROM filters_of($$ SELECT aggregate_id, count(*) FILTER (WHERE event_type = 'A') AS a FROM events GROUP BY 1 $$);
SELECT * FROM filters_of($$ SELECT count(*) FILTER (WHERE event_type = 'A') AS a FROM events WHERE source = 's' $$);
-- what is asked for besides
SELECT * FROM filters_of($$ SELECT position FROM events WHERE event_type IN ('A', 'B') $$, '{B,C}');
SELECT * FROM filters_of($$ SELECT position FROM events WHERE event_type = 'A' $$, '{C}');
SELECT * FROM filters_of($$ SELECT position FROM events $$, '{C}');

-- asked for later: from then on, and never more than the query
SELECT cqrs.create_view('v', $$ SELECT position, event_type FROM events WHERE event_type IN ('A', 'B') $$);
SELECT cqrs.publish('T', '1', 'A'), cqrs.publish('T', '1', 'C') IS NOT NULL;
CALL cqrs.catch_up('v');
SELECT cqrs.alter_projection('v', event_types => '{B,C}');
SELECT event_types FROM cqrs.projection;
SELECT cqrs.publish('T', '1', t) FROM unnest('{A,B,C}'::text[]) AS t;
CALL cqrs.catch_up('v');
SELECT cqrs.alter_projection('v', event_types => '{}');
SELECT event_types FROM cqrs.projection;
SELECT cqrs.publish('T', '1', t) FROM unnest('{A,B,C}'::text[]) AS t;
CALL cqrs.catch_up('v');
SELECT array_agg(event_type ORDER BY position) FROM v;

-- an event that differs only in case is another one to the engine, not to the query
SELECT cqrs.create_view('blind', $$ SELECT position, event_type FROM events WHERE event_type = 'x' COLLATE case_blind $$);
SELECT cqrs.publish('T', '1', 'X') > 0 AS published;
CALL cqrs.catch_up('blind');
SELECT event_type FROM blind;

SELECT cqrs.drop_projection(name, true) FROM cqrs.projection;
DROP FUNCTION filters_of;
DROP COLLATION case_blind;
DROP EXTENSION cqrs_views;
