-- Edits of Wikipedia as they stream in: what becomes of pages, of channels by the hour, and of users. Handlers
-- per batch, which sum up first and touch each row once.
--
--     psql -v mode=inline -v batch_size=500 -f read_models.sql
--
-- Events: PageCreated and PageEdited, of aggregates named channel/page, published by the channels.

\set ON_ERROR_STOP on
\if :{?mode} \else \set mode async \endif
\if :{?batch_size} \else \set batch_size NULL \endif

CREATE SCHEMA wikipedia;

-- Pages. Different users can't be counted by adding numbers, so who edited what is kept too.
CREATE TABLE wikipedia.page_user (
    channel text,
    page    text,
    "user"  text,
    PRIMARY KEY (channel, page, "user")
);

CREATE TABLE wikipedia.page_summary (
    channel         text,
    page            text,
    edits           integer NOT NULL,
    created         boolean NOT NULL,
    added           bigint NOT NULL,
    deleted         bigint NOT NULL,
    delta           bigint NOT NULL,
    distinct_users  integer NOT NULL,
    anonymous_edits integer NOT NULL,
    robot_edits     integer NOT NULL,
    first_at        timestamptz NOT NULL,
    last_at         timestamptz NOT NULL,
    last_user       text NOT NULL,
    PRIMARY KEY (channel, page)
);

CREATE FUNCTION wikipedia.page_summary() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    WITH new_user AS (
        INSERT INTO wikipedia.page_user (channel, page, "user")
        SELECT DISTINCT source, payload->>'page', payload->>'user' FROM events
        ON CONFLICT DO NOTHING
        RETURNING channel, page
    ), new_users AS (
        SELECT channel, page, count(*) AS users FROM new_user GROUP BY channel, page
    ), edits AS (
        SELECT source AS channel, payload->>'page' AS page,
               count(*) AS edits,
               bool_or(event_type = 'PageCreated') AS created,
               sum((payload->>'added')::integer) AS added,
               sum((payload->>'deleted')::integer) AS deleted,
               sum((payload->>'delta')::integer) AS delta,
               count(*) FILTER (WHERE (payload->>'isAnonymous')::boolean) AS anonymous_edits,
               count(*) FILTER (WHERE (payload->>'isRobot')::boolean) AS robot_edits,
               (array_agg(occurred_at ORDER BY position))[1] AS first_at,
               (array_agg(occurred_at ORDER BY position DESC))[1] AS last_at,
               (array_agg(payload->>'user' ORDER BY position DESC))[1] AS last_user
        FROM events
        GROUP BY source, payload->>'page'
    )
    INSERT INTO wikipedia.page_summary AS total
    SELECT channel, page, edits, created, added, deleted, delta, coalesce(users, 0),
           anonymous_edits, robot_edits, first_at, last_at, last_user
    FROM edits
    LEFT JOIN new_users USING (channel, page)
    ON CONFLICT (channel, page) DO UPDATE
    SET edits   = total.edits + excluded.edits,
        created = total.created OR excluded.created,
        added   = total.added + excluded.added,
        deleted = total.deleted + excluded.deleted,
        delta   = total.delta + excluded.delta,
        distinct_users  = total.distinct_users + excluded.distinct_users,
        anonymous_edits = total.anonymous_edits + excluded.anonymous_edits,
        robot_edits     = total.robot_edits + excluded.robot_edits,
        last_at   = excluded.last_at,
        last_user = excluded.last_user;

    RETURN NULL;
END $$;

SELECT cqrs.create_projection('page_summary', 'wikipedia.page_summary()',
    '{wikipedia.page_summary, wikipedia.page_user}',
    mode => :'mode', batch_size => :batch_size, aggregate_types => '{page}');

-- Channels by the hour. Hours are in UTC whatever the time zone.
CREATE TABLE wikipedia.channel_hour (
    channel       text,
    hour_utc      timestamp,
    edits         integer NOT NULL,
    added         bigint NOT NULL,
    deleted       bigint NOT NULL,
    pages_created integer NOT NULL,
    PRIMARY KEY (channel, hour_utc)
);

CREATE FUNCTION wikipedia.channel_hour() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO wikipedia.channel_hour AS total
    SELECT source, date_trunc('hour', occurred_at AT TIME ZONE 'UTC'), count(*),
           sum((payload->>'added')::integer), sum((payload->>'deleted')::integer),
           count(*) FILTER (WHERE event_type = 'PageCreated')
    FROM events
    GROUP BY 1, 2
    ON CONFLICT (channel, hour_utc) DO UPDATE
    SET edits   = total.edits + excluded.edits,
        added   = total.added + excluded.added,
        deleted = total.deleted + excluded.deleted,
        pages_created = total.pages_created + excluded.pages_created;

    RETURN NULL;
END $$;

-- The key says by what the notifications name what has changed, and what is kept in order.
SELECT cqrs.create_projection('channel_hour', 'wikipedia.channel_hour()', '{wikipedia.channel_hour}',
    mode => :'mode', batch_size => :batch_size, aggregate_types => '{page}', key => 'source');

-- Users, who edit in many channels.
CREATE TABLE wikipedia.user_page (
    "user" text,
    page   text,
    PRIMARY KEY ("user", page)
);

CREATE TABLE wikipedia.user_summary (
    "user"         text PRIMARY KEY,
    edits          integer NOT NULL,
    distinct_pages integer NOT NULL,
    delta          bigint NOT NULL
);

CREATE FUNCTION wikipedia.user_summary() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    WITH new_page AS (
        INSERT INTO wikipedia.user_page ("user", page)
        SELECT DISTINCT payload->>'user', aggregate_id FROM events
        ON CONFLICT DO NOTHING
        RETURNING "user"
    ), new_pages AS (
        SELECT "user", count(*) AS pages FROM new_page GROUP BY "user"
    ), edits AS (
        SELECT payload->>'user' AS "user", count(*) AS edits, sum((payload->>'delta')::integer) AS delta
        FROM events
        GROUP BY 1
    )
    INSERT INTO wikipedia.user_summary AS total
    SELECT "user", edits, coalesce(pages, 0), delta
    FROM edits
    LEFT JOIN new_pages USING ("user")
    ON CONFLICT ("user") DO UPDATE
    SET edits = total.edits + excluded.edits,
        distinct_pages = total.distinct_pages + excluded.distinct_pages,
        delta = total.delta + excluded.delta;

    RETURN NULL;
END $$;

SELECT cqrs.create_projection('user_summary', 'wikipedia.user_summary()',
    '{wikipedia.user_summary, wikipedia.user_page}',
    mode => :'mode', batch_size => :batch_size, aggregate_types => '{page}', key => $$payload->>'user'$$);
