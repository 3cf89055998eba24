-- The flight board: one row a flight, with what five services know about it.
--
--     reference   AirlineRegistered, AirportRegistered    names
--     fleet       PlaneRegistered                         model and seats
--     schedule    FlightScheduled, FlightCancelled
--     departures  FlightDeparted
--     arrivals    FlightArrived
--
-- A flight's own events come in their order (the flight is their key, and nobody reports the departure of
-- a flight that he has not heard of). Not so those of different aggregates: a plane may be registered before
-- the flight is scheduled that names it, later, or never. So the board looks up what is known when a flight
-- is scheduled, and is filled in when something becomes known.

\ir options.sql

CREATE TABLE flights.airline (
    carrier text PRIMARY KEY,
    name    text NOT NULL
);

CREATE TABLE flights.airport (
    airport text PRIMARY KEY,
    name    text NOT NULL
);

CREATE TABLE flights.plane (
    tailnum text PRIMARY KEY,
    model   text,
    seats   integer
);

CREATE TABLE flights.flight_board (
    flight_id    text PRIMARY KEY,
    carrier      text NOT NULL,
    airline_name text,
    tailnum      text,
    plane_model  text,
    seats        integer,
    origin       text NOT NULL,
    dest         text NOT NULL,
    dest_name    text,
    status       text NOT NULL,
    departed_at  timestamptz,
    arrived_at   timestamptz,
    dep_delay    integer,
    arr_delay    integer
);

-- To find the flights of what is registered late.
CREATE INDEX ON flights.flight_board (carrier);
CREATE INDEX ON flights.flight_board (tailnum);
CREATE INDEX ON flights.flight_board (dest);

-- Per event.
CREATE FUNCTION flights.flight_board(event cqrs.event) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    CASE event.event_type
    WHEN 'AirlineRegistered' THEN
        INSERT INTO flights.airline (carrier, name)
        VALUES (event.aggregate_id, event.payload->>'name')
        ON CONFLICT (carrier) DO UPDATE SET name = excluded.name;

        UPDATE flights.flight_board SET airline_name = event.payload->>'name'
        WHERE carrier = event.aggregate_id;

    WHEN 'AirportRegistered' THEN
        INSERT INTO flights.airport (airport, name)
        VALUES (event.aggregate_id, event.payload->>'name')
        ON CONFLICT (airport) DO UPDATE SET name = excluded.name;

        UPDATE flights.flight_board SET dest_name = event.payload->>'name'
        WHERE dest = event.aggregate_id;

    WHEN 'PlaneRegistered' THEN
        INSERT INTO flights.plane (tailnum, model, seats)
        VALUES (event.aggregate_id, event.payload->>'model', (event.payload->>'seats')::integer)
        ON CONFLICT (tailnum) DO UPDATE SET model = excluded.model, seats = excluded.seats;

        UPDATE flights.flight_board
        SET plane_model = event.payload->>'model', seats = (event.payload->>'seats')::integer
        WHERE tailnum = event.aggregate_id;

    WHEN 'FlightScheduled' THEN
        INSERT INTO flights.flight_board
            (flight_id, carrier, airline_name, tailnum, plane_model, seats, origin, dest, dest_name, status)
        SELECT event.aggregate_id, f.carrier, airline.name, f.tailnum, plane.model, plane.seats,
               f.origin, f.dest, airport.name, 'scheduled'
        FROM jsonb_to_record(event.payload) AS f (carrier text, tailnum text, origin text, dest text)
        LEFT JOIN flights.airline USING (carrier)
        LEFT JOIN flights.plane USING (tailnum)
        LEFT JOIN flights.airport ON airport.airport = f.dest;

    WHEN 'FlightCancelled' THEN
        UPDATE flights.flight_board SET status = 'cancelled'
        WHERE flight_id = event.aggregate_id;

    WHEN 'FlightDeparted' THEN
        UPDATE flights.flight_board
        SET status = 'departed', departed_at = event.occurred_at,
            dep_delay = (event.payload->>'dep_delay')::integer
        WHERE flight_id = event.aggregate_id;

    WHEN 'FlightArrived' THEN
        UPDATE flights.flight_board
        SET status = 'arrived', arrived_at = event.occurred_at,
            arr_delay = (event.payload->>'arr_delay')::integer
        WHERE flight_id = event.aggregate_id;
    END CASE;
END $$;

-- The same per batch. What a batch holds is in "events"; position order is the order of the events. What
-- was registered comes first, so that one join finds what the batch and what earlier ones brought.
CREATE FUNCTION flights.flight_board() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    WITH registered AS (
        SELECT DISTINCT ON (aggregate_id) aggregate_id AS carrier, payload->>'name' AS name
        FROM events
        WHERE event_type = 'AirlineRegistered'
        ORDER BY aggregate_id, position DESC
    ), known AS (
        INSERT INTO flights.airline (carrier, name)
        SELECT carrier, name FROM registered
        ON CONFLICT (carrier) DO UPDATE SET name = excluded.name
    )
    UPDATE flights.flight_board AS board SET airline_name = registered.name
    FROM registered
    WHERE board.carrier = registered.carrier;

    WITH registered AS (
        SELECT DISTINCT ON (aggregate_id) aggregate_id AS airport, payload->>'name' AS name
        FROM events
        WHERE event_type = 'AirportRegistered'
        ORDER BY aggregate_id, position DESC
    ), known AS (
        INSERT INTO flights.airport (airport, name)
        SELECT airport, name FROM registered
        ON CONFLICT (airport) DO UPDATE SET name = excluded.name
    )
    UPDATE flights.flight_board AS board SET dest_name = registered.name
    FROM registered
    WHERE board.dest = registered.airport;

    WITH registered AS (
        SELECT DISTINCT ON (aggregate_id) aggregate_id AS tailnum, payload->>'model' AS model,
               (payload->>'seats')::integer AS seats
        FROM events
        WHERE event_type = 'PlaneRegistered'
        ORDER BY aggregate_id, position DESC
    ), known AS (
        INSERT INTO flights.plane (tailnum, model, seats)
        SELECT tailnum, model, seats FROM registered
        ON CONFLICT (tailnum) DO UPDATE SET model = excluded.model, seats = excluded.seats
    )
    UPDATE flights.flight_board AS board SET plane_model = registered.model, seats = registered.seats
    FROM registered
    WHERE board.tailnum = registered.tailnum;

    INSERT INTO flights.flight_board
        (flight_id, carrier, airline_name, tailnum, plane_model, seats, origin, dest, dest_name, status)
    SELECT events.aggregate_id, f.carrier, airline.name, f.tailnum, plane.model, plane.seats,
           f.origin, f.dest, airport.name, 'scheduled'
    FROM events
    CROSS JOIN jsonb_to_record(events.payload) AS f (carrier text, tailnum text, origin text, dest text)
    LEFT JOIN flights.airline USING (carrier)
    LEFT JOIN flights.plane USING (tailnum)
    LEFT JOIN flights.airport ON airport.airport = f.dest
    WHERE events.event_type = 'FlightScheduled';

    UPDATE flights.flight_board AS board
    SET status      = news.status,
        departed_at = coalesce(news.departed_at, board.departed_at),
        arrived_at  = coalesce(news.arrived_at, board.arrived_at),
        dep_delay   = coalesce(news.dep_delay, board.dep_delay),
        arr_delay   = coalesce(news.arr_delay, board.arr_delay)
    FROM (
        SELECT aggregate_id AS flight_id,
               (array_agg(CASE event_type WHEN 'FlightCancelled' THEN 'cancelled'
                                          WHEN 'FlightDeparted' THEN 'departed'
                                          ELSE 'arrived' END ORDER BY position DESC))[1] AS status,
               max(occurred_at) FILTER (WHERE event_type = 'FlightDeparted') AS departed_at,
               max(occurred_at) FILTER (WHERE event_type = 'FlightArrived') AS arrived_at,
               max((payload->>'dep_delay')::integer) AS dep_delay,
               max((payload->>'arr_delay')::integer) AS arr_delay
        FROM events
        WHERE event_type IN ('FlightCancelled', 'FlightDeparted', 'FlightArrived')
        GROUP BY aggregate_id
    ) AS news
    WHERE board.flight_id = news.flight_id;

    RETURN NULL;
END $$;

SELECT cqrs.create_projection('flight_board', ('flights.flight_board' || :'arguments')::regprocedure,
    '{flights.flight_board, flights.airline, flights.airport, flights.plane}',
    mode => :'mode', batch_size => :batch_size,
    event_types => '{AirlineRegistered, AirportRegistered, PlaneRegistered,
                     FlightScheduled, FlightCancelled, FlightDeparted, FlightArrived}');
