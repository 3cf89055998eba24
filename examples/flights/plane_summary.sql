-- What each plane did, and where it is: one row for every plane that was registered or that a flight named.
--
-- "Last" is by the order of the events, that is by position: two arrivals may bear the same time.

\ir options.sql

CREATE TABLE flights.plane_summary_flight (
    flight_id text PRIMARY KEY,
    tailnum   text NOT NULL,
    dest      text NOT NULL,
    distance  integer NOT NULL
);

CREATE TABLE flights.plane_summary (
    tailnum          text PRIMARY KEY,
    manufacturer     text,
    model            text,
    flights          integer NOT NULL DEFAULT 0,
    departed         integer NOT NULL DEFAULT 0,
    arrived          integer NOT NULL DEFAULT 0,
    distance_arrived bigint NOT NULL DEFAULT 0,
    last_arrived_at  timestamptz,
    last_airport     text
);

-- Per event.
CREATE FUNCTION flights.plane_summary(event cqrs.event) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    CASE event.event_type
    WHEN 'PlaneRegistered' THEN
        INSERT INTO flights.plane_summary (tailnum, manufacturer, model)
        VALUES (event.aggregate_id, event.payload->>'manufacturer', event.payload->>'model')
        ON CONFLICT (tailnum) DO UPDATE
        SET manufacturer = excluded.manufacturer, model = excluded.model;

    WHEN 'FlightScheduled' THEN
        -- Some flights name no plane.
        IF event.payload->>'tailnum' IS NOT NULL THEN
            INSERT INTO flights.plane_summary_flight (flight_id, tailnum, dest, distance)
            VALUES (event.aggregate_id, event.payload->>'tailnum', event.payload->>'dest',
                    (event.payload->>'distance')::integer);

            INSERT INTO flights.plane_summary AS plane (tailnum, flights)
            VALUES (event.payload->>'tailnum', 1)
            ON CONFLICT (tailnum) DO UPDATE SET flights = plane.flights + 1;
        END IF;

    WHEN 'FlightDeparted' THEN
        UPDATE flights.plane_summary AS plane SET departed = departed + 1
        FROM flights.plane_summary_flight AS flight
        WHERE flight.flight_id = event.aggregate_id AND plane.tailnum = flight.tailnum;

    WHEN 'FlightArrived' THEN
        UPDATE flights.plane_summary AS plane
        SET arrived = arrived + 1,
            distance_arrived = distance_arrived + flight.distance,
            last_arrived_at = event.occurred_at,
            last_airport = flight.dest
        FROM flights.plane_summary_flight AS flight
        WHERE flight.flight_id = event.aggregate_id AND plane.tailnum = flight.tailnum;
    END CASE;
END $$;

-- The same per batch.
CREATE FUNCTION flights.plane_summary() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO flights.plane_summary (tailnum, manufacturer, model)
    SELECT DISTINCT ON (aggregate_id) aggregate_id, payload->>'manufacturer', payload->>'model'
    FROM events
    WHERE event_type = 'PlaneRegistered'
    ORDER BY aggregate_id, position DESC
    ON CONFLICT (tailnum) DO UPDATE
    SET manufacturer = excluded.manufacturer, model = excluded.model;

    -- Some flights name no plane.
    INSERT INTO flights.plane_summary_flight (flight_id, tailnum, dest, distance)
    SELECT aggregate_id, payload->>'tailnum', payload->>'dest', (payload->>'distance')::integer
    FROM events
    WHERE event_type = 'FlightScheduled' AND payload->>'tailnum' IS NOT NULL;

    INSERT INTO flights.plane_summary AS plane
        (tailnum, flights, departed, arrived, distance_arrived, last_arrived_at, last_airport)
    SELECT flight.tailnum,
           count(*) FILTER (WHERE event_type = 'FlightScheduled'),
           count(*) FILTER (WHERE event_type = 'FlightDeparted'),
           count(*) FILTER (WHERE event_type = 'FlightArrived'),
           coalesce(sum(flight.distance) FILTER (WHERE event_type = 'FlightArrived'), 0),
           (array_agg(occurred_at ORDER BY position DESC) FILTER (WHERE event_type = 'FlightArrived'))[1],
           (array_agg(flight.dest ORDER BY position DESC) FILTER (WHERE event_type = 'FlightArrived'))[1]
    FROM events
    JOIN flights.plane_summary_flight AS flight ON flight.flight_id = events.aggregate_id
    WHERE events.aggregate_type = 'flight'
    GROUP BY flight.tailnum
    ON CONFLICT (tailnum) DO UPDATE
    SET flights  = plane.flights + excluded.flights,
        departed = plane.departed + excluded.departed,
        arrived  = plane.arrived + excluded.arrived,
        distance_arrived = plane.distance_arrived + excluded.distance_arrived,
        last_arrived_at  = coalesce(excluded.last_arrived_at, plane.last_arrived_at),
        last_airport     = coalesce(excluded.last_airport, plane.last_airport);

    RETURN NULL;
END $$;

SELECT cqrs.create_projection('plane_summary', ('flights.plane_summary' || :'arguments')::regprocedure,
    '{flights.plane_summary, flights.plane_summary_flight}',
    mode => :'mode', batch_size => :batch_size,
    event_types => '{PlaneRegistered, FlightScheduled, FlightDeparted, FlightArrived}');
