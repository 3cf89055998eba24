-- Statistics per carrier and month of the flight's date.
--
-- A departure names its flight only, so the projection keeps for itself which carrier and month that
-- belongs to.

\ir options.sql

CREATE TABLE flights.carrier (
    carrier text PRIMARY KEY,
    name    text NOT NULL
);

CREATE TABLE flights.carrier_month_flight (
    flight_id text PRIMARY KEY,
    carrier   text NOT NULL,
    month     date NOT NULL
);

CREATE TABLE flights.carrier_month (
    carrier                  text,
    month                    date,
    flights                  integer NOT NULL DEFAULT 0,
    cancelled                integer NOT NULL DEFAULT 0,
    departed                 integer NOT NULL DEFAULT 0,
    arrived                  integer NOT NULL DEFAULT 0,
    departed_over_15min_late integer NOT NULL DEFAULT 0,
    dep_delay_sum            bigint NOT NULL DEFAULT 0,
    arr_delay_sum            bigint NOT NULL DEFAULT 0,
    PRIMARY KEY (carrier, month)
);

-- Per event.
CREATE FUNCTION flights.carrier_month(event cqrs.event) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    dep_delay constant integer := event.payload->>'dep_delay';
    arr_delay constant integer := event.payload->>'arr_delay';
BEGIN
    IF event.event_type = 'AirlineRegistered' THEN
        INSERT INTO flights.carrier (carrier, name)
        VALUES (event.aggregate_id, event.payload->>'name')
        ON CONFLICT (carrier) DO UPDATE SET name = excluded.name;

    ELSIF event.event_type = 'FlightScheduled' THEN
        INSERT INTO flights.carrier_month_flight (flight_id, carrier, month)
        VALUES (event.aggregate_id, event.payload->>'carrier',
                date_trunc('month', (event.payload->>'flight_date')::timestamp));

        INSERT INTO flights.carrier_month AS total (carrier, month, flights)
        SELECT carrier, month, 1 FROM flights.carrier_month_flight
        WHERE flight_id = event.aggregate_id
        ON CONFLICT (carrier, month) DO UPDATE SET flights = total.flights + 1;

    ELSE
        UPDATE flights.carrier_month AS total
        SET cancelled = cancelled + (event.event_type = 'FlightCancelled')::integer,
            departed  = departed + (event.event_type = 'FlightDeparted')::integer,
            arrived   = arrived + (event.event_type = 'FlightArrived')::integer,
            departed_over_15min_late = departed_over_15min_late + coalesce((dep_delay > 15)::integer, 0),
            dep_delay_sum = dep_delay_sum + coalesce(dep_delay, 0),
            arr_delay_sum = arr_delay_sum + coalesce(arr_delay, 0)
        FROM flights.carrier_month_flight AS flight
        WHERE flight.flight_id = event.aggregate_id
          AND (total.carrier, total.month) = (flight.carrier, flight.month);
    END IF;
END $$;

-- The same per batch: the sums over the batch are added to what is there.
CREATE FUNCTION flights.carrier_month() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO flights.carrier (carrier, name)
    SELECT DISTINCT ON (aggregate_id) aggregate_id, payload->>'name'
    FROM events
    WHERE event_type = 'AirlineRegistered'
    ORDER BY aggregate_id, position DESC
    ON CONFLICT (carrier) DO UPDATE SET name = excluded.name;

    INSERT INTO flights.carrier_month_flight (flight_id, carrier, month)
    SELECT aggregate_id, payload->>'carrier', date_trunc('month', (payload->>'flight_date')::timestamp)
    FROM events
    WHERE event_type = 'FlightScheduled';

    INSERT INTO flights.carrier_month AS total
    SELECT flight.carrier, flight.month,
           count(*) FILTER (WHERE event_type = 'FlightScheduled'),
           count(*) FILTER (WHERE event_type = 'FlightCancelled'),
           count(*) FILTER (WHERE event_type = 'FlightDeparted'),
           count(*) FILTER (WHERE event_type = 'FlightArrived'),
           count(*) FILTER (WHERE (payload->>'dep_delay')::integer > 15),
           coalesce(sum((payload->>'dep_delay')::integer), 0),
           coalesce(sum((payload->>'arr_delay')::integer), 0)
    FROM events
    JOIN flights.carrier_month_flight AS flight ON flight.flight_id = events.aggregate_id
    WHERE events.aggregate_type = 'flight'
    GROUP BY flight.carrier, flight.month
    ON CONFLICT (carrier, month) DO UPDATE
    SET flights   = total.flights + excluded.flights,
        cancelled = total.cancelled + excluded.cancelled,
        departed  = total.departed + excluded.departed,
        arrived   = total.arrived + excluded.arrived,
        departed_over_15min_late = total.departed_over_15min_late + excluded.departed_over_15min_late,
        dep_delay_sum = total.dep_delay_sum + excluded.dep_delay_sum,
        arr_delay_sum = total.arr_delay_sum + excluded.arr_delay_sum;

    RETURN NULL;
END $$;

SELECT cqrs.create_projection('carrier_month', ('flights.carrier_month' || :'arguments')::regprocedure,
    '{flights.carrier_month, flights.carrier_month_flight, flights.carrier}',
    mode => :'mode', batch_size => :batch_size,
    event_types => '{AirlineRegistered, FlightScheduled, FlightCancelled, FlightDeparted, FlightArrived}');
