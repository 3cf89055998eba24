-- Each origin's days, with their weather: the weather service knows nothing of flights, and the other way
-- round. Either may be the first to have something to say about a day.

\ir options.sql

CREATE TABLE flights.origin_day_flight (
    flight_id   text PRIMARY KEY,
    origin      text NOT NULL,
    flight_date date NOT NULL
);

CREATE TABLE flights.origin_day (
    origin               text,
    flight_date          date,
    flights              integer NOT NULL DEFAULT 0,
    cancelled            integer NOT NULL DEFAULT 0,
    dep_delay_sum        bigint NOT NULL DEFAULT 0,
    weather_observations integer NOT NULL DEFAULT 0,
    max_wind_speed       numeric,
    precip_sum           numeric,
    PRIMARY KEY (origin, flight_date)
);

-- Per event.
CREATE FUNCTION flights.origin_day(event cqrs.event) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    CASE event.event_type
    WHEN 'WeatherObserved' THEN
        INSERT INTO flights.origin_day AS day
            (origin, flight_date, weather_observations, max_wind_speed, precip_sum)
        VALUES (event.aggregate_id, (event.payload->>'date')::date, 1,
                (event.payload->>'wind_speed')::numeric, (event.payload->>'precip')::numeric)
        ON CONFLICT (origin, flight_date) DO UPDATE
        SET weather_observations = day.weather_observations + 1,
            max_wind_speed = greatest(day.max_wind_speed, excluded.max_wind_speed),
            precip_sum = coalesce(day.precip_sum + excluded.precip_sum, excluded.precip_sum, day.precip_sum);

    WHEN 'FlightScheduled' THEN
        INSERT INTO flights.origin_day_flight (flight_id, origin, flight_date)
        VALUES (event.aggregate_id, event.payload->>'origin', (event.payload->>'flight_date')::date);

        INSERT INTO flights.origin_day AS day (origin, flight_date, flights)
        VALUES (event.payload->>'origin', (event.payload->>'flight_date')::date, 1)
        ON CONFLICT (origin, flight_date) DO UPDATE SET flights = day.flights + 1;

    WHEN 'FlightCancelled', 'FlightDeparted' THEN
        UPDATE flights.origin_day AS day
        SET cancelled = cancelled + (event.event_type = 'FlightCancelled')::integer,
            dep_delay_sum = dep_delay_sum + coalesce((event.payload->>'dep_delay')::integer, 0)
        FROM flights.origin_day_flight AS flight
        WHERE flight.flight_id = event.aggregate_id
          AND (day.origin, day.flight_date) = (flight.origin, flight.flight_date);
    END CASE;
END $$;

-- The same per batch.
CREATE FUNCTION flights.origin_day() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO flights.origin_day AS day
        (origin, flight_date, weather_observations, max_wind_speed, precip_sum)
    SELECT aggregate_id, (payload->>'date')::date, count(*),
           max((payload->>'wind_speed')::numeric), sum((payload->>'precip')::numeric)
    FROM events
    WHERE event_type = 'WeatherObserved'
    GROUP BY aggregate_id, (payload->>'date')::date
    ON CONFLICT (origin, flight_date) DO UPDATE
    SET weather_observations = day.weather_observations + excluded.weather_observations,
        max_wind_speed = greatest(day.max_wind_speed, excluded.max_wind_speed),
        precip_sum = coalesce(day.precip_sum + excluded.precip_sum, excluded.precip_sum, day.precip_sum);

    INSERT INTO flights.origin_day_flight (flight_id, origin, flight_date)
    SELECT aggregate_id, payload->>'origin', (payload->>'flight_date')::date
    FROM events
    WHERE event_type = 'FlightScheduled';

    INSERT INTO flights.origin_day AS day (origin, flight_date, flights, cancelled, dep_delay_sum)
    SELECT flight.origin, flight.flight_date,
           count(*) FILTER (WHERE event_type = 'FlightScheduled'),
           count(*) FILTER (WHERE event_type = 'FlightCancelled'),
           coalesce(sum((payload->>'dep_delay')::integer), 0)
    FROM events
    JOIN flights.origin_day_flight AS flight ON flight.flight_id = events.aggregate_id
    WHERE events.aggregate_type = 'flight'
    GROUP BY flight.origin, flight.flight_date
    ON CONFLICT (origin, flight_date) DO UPDATE
    SET flights = day.flights + excluded.flights,
        cancelled = day.cancelled + excluded.cancelled,
        dep_delay_sum = day.dep_delay_sum + excluded.dep_delay_sum;

    RETURN NULL;
END $$;

SELECT cqrs.create_projection('origin_day', ('flights.origin_day' || :'arguments')::regprocedure,
    '{flights.origin_day, flights.origin_day_flight}',
    mode => :'mode', batch_size => :batch_size,
    event_types => '{WeatherObserved, FlightScheduled, FlightCancelled, FlightDeparted}');
