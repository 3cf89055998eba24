-- One row a flight, kept by a reducer: it gets the flight's row as it was and what happened, and returns the row as it
-- is now. The first event of a flight finds no row.

CREATE TABLE flight (
    flight_id        text PRIMARY KEY,
    carrier          text,
    tailnum          text,
    origin           text,
    dest             text,
    flight_date      date,
    distance         integer,
    status           text,
    departed_at      timestamptz,
    arrived_at       timestamptz,
    dep_delay        integer,
    arr_delay        integer,
    cancelled        integer,
    departed         integer,
    arrived          integer,
    arrived_position bigint
);

CREATE FUNCTION keep_flight(flight flight, event cqrs.event) RETURNS flight LANGUAGE plpgsql AS $$
BEGIN
    CASE event.event_type
    WHEN 'FlightScheduled' THEN
        flight := jsonb_populate_record(flight, event.payload);
        flight.status := 'scheduled';
        flight.cancelled := 0;
        flight.departed := 0;
        flight.arrived := 0;

    WHEN 'FlightCancelled' THEN
        flight.status := 'cancelled';
        flight.cancelled := flight.cancelled + 1;

    WHEN 'FlightDeparted' THEN
        flight.status := 'departed';
        flight.departed := flight.departed + 1;
        flight.departed_at := event.occurred_at;
        flight.dep_delay := event.payload->>'dep_delay';

    WHEN 'FlightArrived' THEN
        IF flight.status <> 'departed' THEN
            RAISE EXCEPTION 'flight % arrives, but is %', event.aggregate_id, flight.status;
        END IF;
        flight.status := 'arrived';
        flight.arrived := flight.arrived + 1;
        flight.arrived_at := event.occurred_at;
        flight.arr_delay := event.payload->>'arr_delay';
        flight.arrived_position := event.position;
    END CASE;
    RETURN flight;
END $$;

SELECT cqrs.create_projection('flight', 'keep_flight(flight,cqrs.event)', '{flight}',
    mode => :'mode', batch_size => :batch_size, aggregate_types => '{flight}');
