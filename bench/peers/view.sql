-- A view of this extension; :mode is async or inline.
CREATE EXTENSION cqrs_views;
SET search_path = bench;
SELECT cqrs.create_view('kept', $$
    SELECT aggregate_id AS order_id, count(*) AS items, sum((payload->>'price')::numeric) AS total
    FROM events GROUP BY aggregate_id
$$, mode => :'mode') \g /dev/null
RESET search_path;
