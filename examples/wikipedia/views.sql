-- The same read models without a handler: views, that is queries which the extension keeps up to date, and on top
-- of them plain SQL views that join their read tables.
--
--     psql -v mode=inline -v batch_size=500 -f views.sql
--
-- A view can't count different users: their number does not follow from what it was and what is new. But a view
-- whose groups are the pages' users has a row for each, and those are counted when somebody asks.

\set ON_ERROR_STOP on
\if :{?mode} \else \set mode async \endif
\if :{?batch_size} \else \set batch_size NULL \endif

CREATE SCHEMA wikipedia;
SET search_path = wikipedia;

-- Pages.
SELECT cqrs.create_view('page', $$
    SELECT source AS channel,
           payload->>'page' AS page,
           count(*) AS edits,
           bool_or(event_type = 'PageCreated') AS created,
           sum((payload->>'added')::integer) AS added,
           sum((payload->>'deleted')::integer) AS deleted,
           sum((payload->>'delta')::integer) AS delta,
           count(*) FILTER (WHERE (payload->>'isAnonymous')::boolean) AS anonymous_edits,
           count(*) FILTER (WHERE (payload->>'isRobot')::boolean) AS robot_edits,
           cqrs.first(occurred_at) AS first_at,
           cqrs.last(occurred_at) AS last_at,
           cqrs.last(payload->>'user') AS last_user
    FROM events
    WHERE aggregate_type = 'page'
    GROUP BY source, payload->>'page'
$$, mode => :'mode', batch_size => :batch_size);

SELECT cqrs.create_view('page_user', $$
    SELECT source AS channel, payload->>'page' AS page, payload->>'user' AS "user"
    FROM events
    WHERE aggregate_type = 'page'
    GROUP BY source, payload->>'page', payload->>'user'
$$, mode => :'mode', batch_size => :batch_size);

-- Channels by the hour. Hours are in UTC whatever the time zone.
SELECT cqrs.create_view('channel_hour', $$
    SELECT source AS channel,
           date_trunc('hour', occurred_at AT TIME ZONE 'UTC') AS hour_utc,
           count(*) AS edits,
           sum((payload->>'added')::integer) AS added,
           sum((payload->>'deleted')::integer) AS deleted,
           count(*) FILTER (WHERE event_type = 'PageCreated') AS pages_created
    FROM events
    WHERE aggregate_type = 'page'
    GROUP BY source, date_trunc('hour', occurred_at AT TIME ZONE 'UTC')
$$, mode => :'mode', batch_size => :batch_size);

-- Users by the page, who edit in many channels.
SELECT cqrs.create_view('user_page', $$
    SELECT payload->>'user' AS "user",
           aggregate_id AS page,
           count(*) AS edits,
           sum((payload->>'delta')::integer) AS delta
    FROM events
    WHERE aggregate_type = 'page'
    GROUP BY payload->>'user', aggregate_id
$$, mode => :'mode', batch_size => :batch_size);

-- The read models, by the names and columns of the tables that handlers keep.
CREATE VIEW page_summary AS
SELECT channel, page, edits, created, added, deleted, delta, distinct_users, anonymous_edits, robot_edits, first_at, last_at,
       last_user
FROM page
JOIN (SELECT channel, page, count(*) AS distinct_users FROM page_user GROUP BY channel, page) AS users
    USING (channel, page);

CREATE VIEW user_summary AS
SELECT "user", sum(edits) AS edits, count(*) AS distinct_pages, sum(delta) AS delta
FROM user_page
GROUP BY "user";

RESET search_path;
