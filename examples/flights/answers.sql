-- What the data set's answer files say, from the read tables. Views whose columns are text as in those
-- files: times in UTC with milliseconds, money and measures with two decimals.

CREATE FUNCTION flights.utc(moment timestamptz) RETURNS text LANGUAGE sql STABLE
RETURN to_char(moment AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"');

CREATE VIEW flights.answer_flight_status AS
SELECT flight_id, carrier, airline_name, tailnum, plane_model, seats, origin, dest, dest_name, status,
       flights.utc(departed_at) AS departed_at, flights.utc(arrived_at) AS arrived_at, dep_delay, arr_delay
FROM flights.flight_board
ORDER BY flight_id COLLATE "C";

CREATE VIEW flights.answer_carrier_month AS
SELECT carrier, name AS airline_name, to_char(month, 'YYYY-MM') AS flight_month, flights, cancelled,
       departed, arrived, departed_over_15min_late, dep_delay_sum, arr_delay_sum
FROM flights.carrier_month
LEFT JOIN flights.carrier USING (carrier)
ORDER BY carrier COLLATE "C", month;

-- The weather of days without flights is nobody's question.
CREATE VIEW flights.answer_origin_day_weather AS
SELECT origin, flight_date, flights, cancelled, dep_delay_sum, weather_observations,
       round(max_wind_speed, 2) AS max_wind_speed, round(precip_sum, 2) AS precip_sum
FROM flights.origin_day
WHERE flights > 0
ORDER BY origin COLLATE "C", flight_date;

CREATE VIEW flights.answer_plane_summary AS
SELECT tailnum, manufacturer, model, flights, departed, arrived, distance_arrived,
       flights.utc(last_arrived_at) AS last_arrived_at, last_airport
FROM flights.plane_summary
ORDER BY tailnum COLLATE "C";
