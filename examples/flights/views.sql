-- The same four read models without a handler: views, that is queries which the extension keeps up to date, and
-- on top of them plain SQL views that join their read tables.
--
--     psql -v mode=inline -v batch_size=500 -f views.sql
--     psql -v per=reducer -f views.sql
--
-- A flight's row can be kept by a view or, since a flight goes from state to state, by a reducer.
--
-- A view sees events one group at a time, here those of one flight, one plane, and so on. Which services know
-- what about whom is put together by whoever reads: so it does not matter who was first to publish.

\ir options.sql
SELECT CASE :'per' WHEN 'reducer' THEN 'flight_reducer.sql' ELSE 'flight_view.sql' END AS flight_file \gset
SET search_path = flights;

SELECT cqrs.create_view('airline', $$
    SELECT aggregate_id AS carrier, cqrs.last(payload->>'name') AS name
    FROM events
    WHERE event_type = 'AirlineRegistered'
    GROUP BY aggregate_id
$$, mode => :'mode', batch_size => :batch_size);

SELECT cqrs.create_view('airport', $$
    SELECT aggregate_id AS airport, cqrs.last(payload->>'name') AS name
    FROM events
    WHERE event_type = 'AirportRegistered'
    GROUP BY aggregate_id
$$, mode => :'mode', batch_size => :batch_size);

SELECT cqrs.create_view('plane', $$
    SELECT aggregate_id AS tailnum,
           cqrs.last(payload->>'manufacturer') AS manufacturer,
           cqrs.last(payload->>'model') AS model,
           cqrs.last((payload->>'seats')::integer) AS seats
    FROM events
    WHERE event_type = 'PlaneRegistered'
    GROUP BY aggregate_id
$$, mode => :'mode', batch_size => :batch_size);

\ir :flight_file

SELECT cqrs.create_view('weather', $$
    SELECT aggregate_id AS station,
           (payload->>'date')::date AS date,
           count(*) AS observations,
           max((payload->>'wind_speed')::numeric) AS max_wind_speed,
           sum((payload->>'precip')::numeric) AS precip_sum
    FROM events
    WHERE event_type = 'WeatherObserved'
    GROUP BY aggregate_id, (payload->>'date')::date
$$, mode => :'mode', batch_size => :batch_size);

-- To find the flights of a plane, a carrier and a day. A read table takes indexes like any other.
CREATE INDEX ON flight (tailnum);
CREATE INDEX ON flight (carrier);
CREATE INDEX ON flight (origin, flight_date);

-- The read models, by the names and columns of the tables that handlers keep.
CREATE VIEW flight_board AS
SELECT flight_id, carrier, airline.name AS airline_name, tailnum, plane.model AS plane_model, plane.seats, origin, dest,
       airport.name AS dest_name, status, departed_at, arrived_at, dep_delay, arr_delay
FROM flight
LEFT JOIN airline USING (carrier)
LEFT JOIN plane USING (tailnum)
LEFT JOIN airport ON airport.airport = flight.dest;

CREATE VIEW carrier AS
SELECT carrier, name FROM airline;

CREATE VIEW carrier_month AS
SELECT carrier, date_trunc('month', flight_date)::date AS month,
       count(*) AS flights,
       sum(cancelled) AS cancelled,
       sum(departed) AS departed,
       sum(arrived) AS arrived,
       count(*) FILTER (WHERE dep_delay > 15) AS departed_over_15min_late,
       coalesce(sum(dep_delay), 0) AS dep_delay_sum,
       coalesce(sum(arr_delay), 0) AS arr_delay_sum
FROM flight
GROUP BY carrier, date_trunc('month', flight_date);

CREATE VIEW origin_day AS
SELECT coalesce(day.origin, weather.station) AS origin, coalesce(day.flight_date, weather.date) AS flight_date,
       coalesce(day.flights, 0) AS flights,
       coalesce(day.cancelled, 0) AS cancelled,
       coalesce(day.dep_delay_sum, 0) AS dep_delay_sum,
       coalesce(weather.observations, 0) AS weather_observations,
       weather.max_wind_speed, weather.precip_sum
FROM (SELECT origin, flight_date, count(*) AS flights, sum(cancelled) AS cancelled,
             coalesce(sum(dep_delay), 0) AS dep_delay_sum
      FROM flight
      GROUP BY origin, flight_date) AS day
FULL JOIN weather ON weather.station = day.origin AND weather.date = day.flight_date;

CREATE VIEW plane_summary AS
SELECT tailnum, plane.manufacturer, plane.model,
       coalesce(done.flights, 0) AS flights,
       coalesce(done.departed, 0) AS departed,
       coalesce(done.arrived, 0) AS arrived,
       coalesce(done.distance_arrived, 0) AS distance_arrived,
       last.arrived_at AS last_arrived_at,
       last.dest AS last_airport
FROM plane
FULL JOIN (SELECT tailnum, count(*) AS flights, sum(departed) AS departed, sum(arrived) AS arrived,
                  coalesce(sum(distance) FILTER (WHERE arrived > 0), 0) AS distance_arrived
           FROM flight
           WHERE tailnum IS NOT NULL
           GROUP BY tailnum) AS done USING (tailnum)
LEFT JOIN (SELECT DISTINCT ON (tailnum) tailnum, arrived_at, dest
           FROM flight
           WHERE arrived > 0
           ORDER BY tailnum, arrived_position DESC) AS last USING (tailnum);

RESET search_path;
