-- One row a flight, kept by a view: what was scheduled, and how often what happened to it. arrived_position says
-- which of two arrivals was the later one.
SELECT cqrs.create_view('flight', $$
    SELECT aggregate_id AS flight_id,
           cqrs.last(payload->>'carrier') FILTER (WHERE event_type = 'FlightScheduled') AS carrier,
           cqrs.last(payload->>'tailnum') FILTER (WHERE event_type = 'FlightScheduled') AS tailnum,
           cqrs.last(payload->>'origin') FILTER (WHERE event_type = 'FlightScheduled') AS origin,
           cqrs.last(payload->>'dest') FILTER (WHERE event_type = 'FlightScheduled') AS dest,
           cqrs.last((payload->>'flight_date')::date) FILTER (WHERE event_type = 'FlightScheduled') AS flight_date,
           cqrs.last((payload->>'distance')::integer) FILTER (WHERE event_type = 'FlightScheduled') AS distance,
           cqrs.last(CASE event_type WHEN 'FlightScheduled' THEN 'scheduled'
                                     WHEN 'FlightCancelled' THEN 'cancelled'
                                     WHEN 'FlightDeparted' THEN 'departed'
                                     WHEN 'FlightArrived' THEN 'arrived' END) AS status,
           cqrs.last(occurred_at) FILTER (WHERE event_type = 'FlightDeparted') AS departed_at,
           cqrs.last(occurred_at) FILTER (WHERE event_type = 'FlightArrived') AS arrived_at,
           cqrs.last((payload->>'dep_delay')::integer) FILTER (WHERE event_type = 'FlightDeparted') AS dep_delay,
           cqrs.last((payload->>'arr_delay')::integer) FILTER (WHERE event_type = 'FlightArrived') AS arr_delay,
           count(*) FILTER (WHERE event_type = 'FlightCancelled') AS cancelled,
           count(*) FILTER (WHERE event_type = 'FlightDeparted') AS departed,
           count(*) FILTER (WHERE event_type = 'FlightArrived') AS arrived,
           max(position) FILTER (WHERE event_type = 'FlightArrived') AS arrived_position
    FROM events
    WHERE aggregate_type = 'flight'
    GROUP BY aggregate_id
$$, mode => :'mode', batch_size => :batch_size);
