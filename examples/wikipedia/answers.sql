-- What the data set's answer files say, from the read tables, as views.

CREATE FUNCTION wikipedia.utc(moment timestamptz) RETURNS text LANGUAGE sql STABLE
RETURN to_char(moment AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"');

CREATE VIEW wikipedia.answer_page_summary AS
SELECT channel, page, edits, CASE WHEN created THEN 'true' ELSE 'false' END AS created, added, deleted, delta,
       distinct_users, anonymous_edits, robot_edits, wikipedia.utc(first_at) AS first_at,
       wikipedia.utc(last_at) AS last_at, last_user
FROM wikipedia.page_summary
ORDER BY channel COLLATE "C", page COLLATE "C";

CREATE VIEW wikipedia.answer_channel_hour AS
SELECT channel, to_char(hour_utc, 'YYYY-MM-DD"T"HH24') AS hour_utc, edits, added, deleted, pages_created
FROM wikipedia.channel_hour
ORDER BY channel COLLATE "C", channel_hour.hour_utc;

CREATE VIEW wikipedia.answer_user_summary AS
SELECT "user", edits, distinct_pages, delta
FROM wikipedia.user_summary
ORDER BY "user" COLLATE "C";

-- What the data set's publisher prints in his documentation: the ten pages edited most, over all channels.
CREATE VIEW wikipedia.answer_published_top10 AS
SELECT page, edits
FROM (SELECT page, sum(edits) AS edits FROM wikipedia.page_summary GROUP BY page
      ORDER BY edits DESC, page COLLATE "C" LIMIT 10) AS top10
ORDER BY page COLLATE "C";
