-- What the suites drain and views add to orders.sql: read models of some shapes, and the ways to keep them.

-- A shape: the view's query; the columns of the table that one keeps by hand; the statement that keeps it, over
-- the events of positions above "done" up to "upto"; and which of its columns are to be seen.
CREATE TABLE bench.shape (name text PRIMARY KEY, query text, columns text, by_hand text, seen text DEFAULT '*');

INSERT INTO bench.shape (name, query, columns, by_hand) VALUES ('sums', $$
    SELECT aggregate_id AS order_id, count(*) AS items, sum((payload->>'price')::numeric) AS total
    FROM events GROUP BY aggregate_id
$$, $$
    order_id text PRIMARY KEY, items bigint, total numeric
$$, $$
    INSERT INTO %s AS o
    SELECT aggregate_id, count(*), sum((payload->>'price')::numeric)
    FROM cqrs.outbox WHERE position > done AND position <= upto GROUP BY aggregate_id
    ON CONFLICT (order_id) DO UPDATE SET items = o.items + excluded.items, total = o.total + excluded.total
$$);

-- With a last value. By hand one remembers the position that it is from, as events can come late. A sum of no
-- values is NULL, in a slice or in the table.
INSERT INTO bench.shape VALUES ('last', $$
    SELECT aggregate_id AS order_id,
           cqrs.last(payload->>'status') FILTER (WHERE event_type = 'OrderStatusChanged') AS status,
           count(*) FILTER (WHERE event_type = 'ItemAdded')                              AS items,
           sum((payload->>'price')::numeric) FILTER (WHERE event_type = 'ItemAdded')     AS total
    FROM events WHERE aggregate_type = 'order' GROUP BY aggregate_id
$$, $$
    order_id text PRIMARY KEY, status text, items bigint, total numeric, status_position bigint
$$, $$
    INSERT INTO %s AS o
    SELECT aggregate_id,
           (array_agg(payload->>'status' ORDER BY position DESC) FILTER (WHERE event_type = 'OrderStatusChanged'))[1],
           count(*) FILTER (WHERE event_type = 'ItemAdded'),
           sum((payload->>'price')::numeric) FILTER (WHERE event_type = 'ItemAdded'),
           max(position) FILTER (WHERE event_type = 'OrderStatusChanged')
    FROM cqrs.outbox WHERE position > done AND position <= upto AND aggregate_type = 'order' GROUP BY aggregate_id
    ON CONFLICT (order_id) DO UPDATE
    SET items = o.items + excluded.items,
        total = CASE WHEN o.total IS NULL THEN excluded.total ELSE o.total + coalesce(excluded.total, 0) END,
        status = CASE WHEN excluded.status_position > coalesce(o.status_position, 0)
                      THEN excluded.status ELSE o.status END,
        status_position = greatest(o.status_position, excluded.status_position)
$$, 'order_id, status, items, total');

-- What carriers' months are made of: the flights of the data set pnw_flights14, one row each. Only a flight's
-- first event, of which there is one, tells its carrier and date, so by hand it needs no positions.
INSERT INTO bench.shape (name, query, columns, by_hand) VALUES ('flight', $$
    SELECT aggregate_id AS flight_id,
           cqrs.first(payload->>'carrier') FILTER (WHERE event_type = 'FlightScheduled')              AS carrier,
           cqrs.first(left(payload->>'flight_date', 7)) FILTER (WHERE event_type = 'FlightScheduled') AS month,
           count(*) FILTER (WHERE event_type = 'FlightCancelled')                                     AS cancelled,
           count(*) FILTER (WHERE event_type = 'FlightDeparted')                                      AS departed,
           count(*) FILTER (WHERE event_type = 'FlightArrived')                                       AS arrived,
           sum((payload->>'dep_delay')::integer)                                                      AS dep_delay,
           sum((payload->>'arr_delay')::integer)                                                      AS arr_delay
    FROM events WHERE aggregate_type = 'flight' GROUP BY aggregate_id
$$, $$
    flight_id text PRIMARY KEY, carrier text, month text, cancelled bigint, departed bigint, arrived bigint,
    dep_delay bigint, arr_delay bigint
$$, $$
    INSERT INTO %s AS o
    SELECT aggregate_id,
           max(payload->>'carrier') FILTER (WHERE event_type = 'FlightScheduled'),
           max(left(payload->>'flight_date', 7)) FILTER (WHERE event_type = 'FlightScheduled'),
           count(*) FILTER (WHERE event_type = 'FlightCancelled'),
           count(*) FILTER (WHERE event_type = 'FlightDeparted'),
           count(*) FILTER (WHERE event_type = 'FlightArrived'),
           sum((payload->>'dep_delay')::integer),
           sum((payload->>'arr_delay')::integer)
    FROM cqrs.outbox WHERE position > done AND position <= upto AND aggregate_type = 'flight' GROUP BY aggregate_id
    ON CONFLICT (flight_id) DO UPDATE
    SET carrier = coalesce(o.carrier, excluded.carrier), month = coalesce(o.month, excluded.month),
        cancelled = o.cancelled + excluded.cancelled, departed = o.departed + excluded.departed,
        arrived = o.arrived + excluded.arrived,
        dep_delay = coalesce(o.dep_delay + excluded.dep_delay, o.dep_delay, excluded.dep_delay),
        arr_delay = coalesce(o.arr_delay + excluded.arr_delay, o.arr_delay, excluded.arr_delay)
$$);

-- Makes a read table of a shape in the schema bench, and whatever keeps it, of a kind: "hand" is a procedure keep_NAME,
-- that does so over the events after a position, in slices, a commit each, and "packed" too, with the table's pages filled
-- to the end; "view"; and for sums also handlers, "batch", "reducer" and "event". The projection waits to be resumed. Its
-- batch size NULL is the default.
CREATE PROCEDURE bench.create_way(shape text, kind text, name text, batch_size integer DEFAULT NULL)
LANGUAGE plpgsql AS $$
DECLARE
    shape_row constant bench.shape := s FROM bench.shape AS s WHERE s.name = $1;
    add_up constant text := 'ON CONFLICT (order_id) DO UPDATE SET items = o.items + excluded.items,
                             total = o.total + excluded.total';
BEGIN
    PERFORM set_config('search_path', 'bench', true);
    IF kind = 'view' THEN
        PERFORM cqrs.create_view(name, shape_row.query, batch_size => batch_size);
        PERFORM cqrs.pause_projection(name);
        RETURN;
    END IF;

    EXECUTE format('CREATE TABLE %I (%s) WITH (fillfactor = %s)', name, shape_row.columns,
                   CASE kind WHEN 'packed' THEN 100 ELSE 50 END);
    IF kind IN ('hand', 'packed') THEN
        EXECUTE format('CREATE OR REPLACE PROCEDURE keep_%s(slice bigint, after bigint DEFAULT 0) LANGUAGE plpgsql AS %L',
                       name, format('DECLARE
            done bigint := after;
            upto bigint;
            last_position constant bigint := max(position) FROM cqrs.outbox;
            BEGIN
                WHILE done < last_position LOOP
                    upto := least(done + slice, last_position);
                    %s;
                    COMMIT;
                    done := upto;
                END LOOP;
            END', format(shape_row.by_hand, 'bench.' || name)));
        RETURN;
    ELSIF kind = 'batch' THEN
        EXECUTE format('CREATE FUNCTION keep_%1$s() RETURNS trigger LANGUAGE plpgsql AS %2$L', name, format('BEGIN
            INSERT INTO bench.%s AS o
            SELECT aggregate_id, count(*), sum((payload->>%L)::numeric) FROM events GROUP BY aggregate_id %s;
            RETURN NULL; END', name, 'price', add_up));
    ELSIF kind = 'reducer' THEN
        EXECUTE format('CREATE FUNCTION keep_%1$s(o %1$s, event cqrs.event) RETURNS %1$s LANGUAGE plpgsql AS %2$L',
                       name, format('BEGIN
            o.items := coalesce(o.items, 0) + 1;
            o.total := coalesce(o.total, 0) + (event.payload->>%L)::numeric;
            RETURN o; END', 'price'));
    ELSIF kind = 'event' THEN
        EXECUTE format('CREATE FUNCTION keep_%1$s(event cqrs.event) RETURNS void LANGUAGE plpgsql AS %2$L',
                       name, format('BEGIN
            INSERT INTO bench.%s AS o VALUES (event.aggregate_id, 1, (event.payload->>%L)::numeric) %s;
            END', name, 'price', add_up));
    END IF;
    PERFORM cqrs.create_projection(name, (SELECT oid::regprocedure FROM pg_proc WHERE proname = 'keep_' || name),
                                   ARRAY[name::regclass], batch_size => batch_size);
    PERFORM cqrs.pause_projection(name);
END $$;

-- What a read table of a shape shows; and what it should, by the query over all events of a table like the outbox,
-- in their order.
CREATE FUNCTION bench.checksum(read_table text, shape text) RETURNS text LANGUAGE sql
RETURN bench.checksum_of(format('SELECT %s FROM bench.%s', (SELECT seen FROM bench.shape WHERE shape.name = $2), $1));
CREATE FUNCTION bench.checksum_by_query(shape text, events text DEFAULT 'cqrs.outbox') RETURNS text LANGUAGE sql
RETURN bench.checksum_of(format('WITH events AS NOT MATERIALIZED (SELECT * FROM %s ORDER BY position) %s', events,
                                (SELECT query FROM bench.shape WHERE shape.name = $1)));
