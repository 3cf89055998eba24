# Random views: queries out of the grammar that cqrs.create_view takes, the random events that they are about, sessions
# that publish those, and for each query the reference, which says the same of all events at once and in the order of
# position.
#
# A view is a tree, so that a failing one can be made smaller: reductions() returns what is left of it when one part
# is taken away. In expressions, {payload} stands for that column, however a query names it.
#
# What the reference leaves open is not compared: which of two equal values that look different stands for a group
# or is the least, and the last digits of a sum of floats.

package CqrsRandomView;

use strict;
use warnings FATAL => 'all';

use Exporter 'import';

our @EXPORT_OK = qw(
  setup_sql random_view render shape comparison reductions
  writer_script straggler_script until_deadline nap quote_name literal chance pick
);

my @event_columns =
  qw(position event_id source aggregate_type aggregate_id aggregate_version event_type payload metadata occurred_at);

# Expressions by type. None may fail, whatever is in the payload.
my %values = (
	smallint => [ q{({payload}->>'s')::smallint}, q{({aggregate_version} % 5)::int2} ],
	integer => [
		q{({payload}->>'n')::int}, q{({payload}->'o'->>'p')::integer}, q{length({aggregate_id})},
		q{CASE {event_type} WHEN 'A' THEN 1 WHEN 'B' THEN ({payload}->>'n')::int END},
		q{coalesce(({payload}->>'n')::int, -1)}, q{extract(hour FROM {occurred_at})::int},
		q{twice(({payload}->>'n')::int)}, q{({payload}->>'n')::few}, q{1},
		q{nullif(({payload}->>'n')::int, 2)}, q{jsonb_array_length({payload}->'list')},
		q{((({payload}->>'n')::int, 'x')::pair).n}
	],
	bigint => [ '{aggregate_version}', '{position}', q{({payload}->>'big')::bigint}, q{count_of({payload})} ],
	numeric => [
		q{({payload}->>'num')::numeric}, q{({payload}->>'n')::numeric / 3}, q{({payload}->'d')::numeric},
		q{({payload}->>'m')::numeric(10,2)}, q{round(({payload}->>'m')::numeric, 1)}
	],
	real => [ q{({payload}->>'f')::real}, q{({payload}->>'n')::float4} ],
	'double precision' => [ q{({payload}->>'f')::float8}, q{({payload}->>'n')::double precision / 8} ],
	inexact => [ q{({payload}->>'d')::float8}, q{sqrt(abs(({payload}->>'n')::float8))} ],
	interval => [
		q{({payload}->>'iv')::interval}, q{{occurred_at} - '2024-01-31 12:00+02'::timestamptz},
		q{make_interval(months => ({payload}->>'n')::int)}
	],
	money => [ q{({payload}->>'m')::numeric::money} ],
	date => [ q{{occurred_at}::date}, q{({payload}->>'day')::date}, q{({payload}->>'day')::date + 1} ],
	timestamptz => [
		'{occurred_at}', q{({payload}->>'at')::timestamptz}, q{date_trunc('hour', {occurred_at})},
		q{date_trunc('day', {occurred_at}, 'Asia/Tokyo')}
	],
	timestamp => [
		q{{occurred_at} AT TIME ZONE 'UTC'}, q{({payload}->>'day')::timestamp}, q{{occurred_at}::timestamp(0)}
	],
	time => [ q{{occurred_at}::time} ],
	timetz => [ q{{occurred_at}::timetz} ],
	text => [
		q{{payload}->>'k'}, '{aggregate_id}', '{source}', '{event_type}', q{upper({event_type})},
		q{{payload}->>'txt'}, q{{metadata}->>'user'}, q{{aggregate_id} || ':' || {event_type}},
		q{to_char({occurred_at}, 'YYYY-MM-DD')}, q{{payload}->>'k' COLLATE "C"}, q{{occurred_at}::text},
		q{({payload}->>'iv')::interval::text}, q{{occurred_at}::date::text},
		q{lower({payload}->>'k') COLLATE "C"}, q{concat_ws('/', {source}, {payload}->>'n')},
		q{CASE WHEN {payload} ? 'k' THEN {payload}->>'k' ELSE 'none' END},
		q{format('%s-%s', {event_type}, {payload}->>'n')}, q{({payload}->>'n')::int::text}, q{{payload}#>>'{o,p}'},
		q{{payload}['k']::text}, q{'it''s'::text}
	],
	varchar => [ q{({payload}->>'k')::varchar(3)} ],
	bpchar => [ q{({payload}->>'k')::char(3)} ],
	bit => [ q{({payload}->>'bits')::bit(4)} ],
	boolean => [
		q{({payload}->>'b')::boolean}, q{{payload} ? 'k'}, q{({payload}->>'n')::int > 0}, q{{event_type} = 'A'},
		q{({payload}->'flag')::boolean}, q{{payload}->>'k' IS NULL}, q{{event_type} IN ('A', 'B')}
	],
	mood => [ q{({payload}->>'e')::mood} ],
	'integer[]' => [ q{({payload}->>'arr')::int[]}, q{ARRAY[({payload}->>'n')::int, 1]} ],
	'text[]' => [ q{string_to_array({payload}->>'k', 'a')}, q{ARRAY[{event_type}, {source}]} ],
	inet => [ q{({payload}->>'ip')::inet} ],
	cidr => [ q{('10.' || abs(({payload}->>'n')::int) || '.0.0/16')::cidr} ],
	oid => [ q{(abs(({payload}->>'n')::int))::oid} ],
	tid => [ q{('(' || abs(({payload}->>'n')::int) || ',' || {position} || ')')::tid} ],
	pg_lsn => [ q{('1/' || abs(({payload}->>'n')::int))::pg_lsn} ],
	xid8 => [ q{(abs(({payload}->>'n')::int)::text)::xid8} ],
	uuid => [ '{event_id}', q{({payload}->>'u')::uuid} ],
	jsonb => [ q{{payload}->'o'}, q{{payload}}, q{{payload}->'mixed'}, q{jsonb_build_object('a', {payload}->'n')} ],
	json => [ q{({payload}->'o')::json}, q{to_json({payload}->>'k')} ],
	bytea => [ q{decode(md5({aggregate_id}), 'hex')}, q{convert_to({payload}->>'k', 'UTF8')} ],
	int4range => [ q{int4range(0, abs(({payload}->>'n')::int))} ],
	pair => [ q{(({payload}->>'n')::int, {payload}->>'k')::pair} ],
	few => [ q{({payload}->>'n')::few} ],
	needed => [ q{coalesce({payload}->>'k', '-')::needed} ],
	point => [ q{point(({payload}->>'n')::float8, 1)} ],
	name => [ q{({payload}->>'k')::name} ],
);

my @summable = ('smallint', 'integer', 'bigint', 'numeric', 'real', 'double precision', 'inexact', 'interval', 'money');
my @ordered = (
	'smallint', 'integer', 'bigint', 'numeric', 'real', 'double precision', 'interval', 'money', 'date', 'timestamptz',
	'timestamp', 'time', 'timetz', 'text', 'varchar', 'bpchar', 'name', 'mood', 'integer[]', 'text[]', 'inet', 'cidr',
	'oid', 'tid', 'xid8', 'pg_lsn', 'few');
my @any = grep { $_ ne 'inexact' } sort keys %values;
my @nullable = grep { $_ ne 'needed' } @any;

# What an aggregate takes, and how often it is chosen.
my @aggregates = (
	[ 4, 'count', @any ], [ 5, 'sum', @summable ], [ 4, 'min', @ordered ], [ 4, 'max', @ordered ],
	[ 1, 'app.lowest', 'integer', 'few' ], [ 1, 'bool_and', 'boolean' ], [ 1, 'bool_or', 'boolean' ], [ 1, 'every', 'boolean' ],
	[ 1, 'bit_and', 'smallint', 'integer', 'bigint', 'bit' ], [ 1, 'bit_or', 'smallint', 'integer', 'bigint', 'bit' ],
	[ 5, 'cqrs.first', @nullable ], [ 7, 'cqrs.last', @nullable ]);

# Group keys: expression, and what else may be derived from it. Where equal values may look different, nothing may.
my @keys = (
	[ '{aggregate_id}', q{upper(%s)}, q{%s || '!'} ], [ '{event_type}', q{%s = 'A'} ], [ '{source}', q{length(%s)} ],
	[ '{aggregate_type}' ], [ '{aggregate_version}' ], [ '{position}', q{%s %% 7} ], [ '{event_id}' ],
	[ q{{payload}->>'k'}, q{%s IS NULL}, q{coalesce(%s, '-')} ],
	[ q{({payload}->>'n')::int}, q{%s + 1}, q{twice(%s)} ],
	[ q{({payload}->>'n')::int % 3}, q{CASE %s WHEN 0 THEN 'zero' ELSE 'other' END} ],
	[ q{abs(({payload}->>'n')::int) / 2} ], [ q{{occurred_at}::date}, q{%s + 1}, q{extract(month FROM %s)} ],
	[ q{date_trunc('hour', {occurred_at})}, q{%s::date} ], [ q{date_trunc('day', {occurred_at} AT TIME ZONE 'UTC')} ],
	[ q{to_char({occurred_at}, 'YYYY-MM')} ],
	[ q{CASE WHEN {event_type} = 'A' THEN 'a' WHEN {payload} ? 'k' THEN {payload}->>'k' END}, q{%s IS NOT NULL} ],
	[ q{{metadata}->>'user'} ], [ q{({payload}->>'u')::uuid} ], [ q{({payload}->>'num')::numeric} ],
	[ q{({payload}->>'b')::boolean}, q{NOT %s} ], [ q{({payload}->>'at')::timestamptz} ],
	[ q{({payload}->>'k') COLLATE "C"} ], [ q{({payload}->>'arr')::int[]} ], [ q{{payload}->'mixed'} ],
	[ q{({payload}->>'e')::mood}, q{%s::text} ], [ q{({payload}->>'bits')::bit(4)} ],
	[ q{({payload}->>'k')::char(3)} ], [ q{({payload}->>'k')::varchar(2)} ], [ q{({payload}->>'iv')::interval} ],
	[ q{({payload}->>'f')::float8} ], [ q{({payload}->>'m')::numeric::money} ], [ q{({payload}->>'ip')::inet} ],
	[ q{({payload}->>'n')::few} ], [ q{(({payload}->>'n')::int, {payload}->>'k')::pair} ],
	[ q{int4range(0, abs(({payload}->>'n')::int))} ], [ q{convert_to({payload}->>'k', 'UTF8')} ],
	[ q{string_to_array({payload}->>'k', 'a')} ], [ q{length({aggregate_id})} ], [ q{({payload}->>'s')::smallint} ],
	[ q{{payload} ? 'n'} ], [ q{({payload}->>'k')::name} ], [ q{lower(int4range(({payload}->>'n')::int, 100))} ],
	[ q{lower(CASE {event_type} WHEN 'A' THEN '[1,5)'::int4range ELSE '(,5)' END)} ],
	[ q{({payload}->>'k') COLLATE blind} ], [ q{({payload}->>'iv')::interval} ], [ q{{occurred_at}::timetz} ],
	[ q{({payload}->>'b')::boolean AND {event_type} = 'A'} ], [ q{{occurred_at}::text} ]);

# Conditions. Those on the type of events, of aggregates, and on the source could be answered before the query is run,
# if one is careful.
my @conditions = (
	q{{event_type} = 'A'}, q{{event_type} IN ('A', 'B')}, q{{event_type} = ANY ('{A,C}')},
	q{{event_type} = ANY (ARRAY['B', 'It''s'])}, q{'B' = {event_type}}, q{{event_type} <> 'A'},
	q{{event_type} NOT IN ('A', 'B')}, q{{event_type} IN ('A', NULL)}, q{{event_type} = ALL ('{A,B}')},
	q{{event_type} <> ANY ('{A,B}')}, q{{event_type} <> ALL ('{A,B}')}, q{{event_type} LIKE 'It%'},
	q{{event_type} IS DISTINCT FROM 'A'}, q{({event_type} = 'A') IS NOT TRUE}, q{{event_type} = upper('a')},
	q{{event_type} = 'A'::name}, q{{event_type} COLLATE "C" = 'B'}, q{{event_type} = coalesce({payload}->>'k', 'A')},
	q{{event_type} BETWEEN 'A' AND 'B'},
	q{CASE WHEN {event_type} = 'A' THEN true ELSE {aggregate_type} = 'order' END},
	q{{event_type} = 'A' AND {event_type} = 'B'}, q{{event_type} = 'A' OR {payload} ? 'k'},
	q{({event_type} = 'A' OR {event_type} = 'C') AND {source} = 'shop'},
	q{{event_type} = 'A' OR {aggregate_type} = 'order'}, q{NOT {event_type} = 'A'}, q{({event_type} = 'A') = false},
	q{{aggregate_type} = 'order'}, q{{aggregate_type} IN ('order', 'nothing')}, q{{aggregate_type} <> 'order'},
	q{{aggregate_type} > 'd'}, q{{source} = 'shop'}, q{{source} = ANY ('{bank,publisher}')}, q{{source} IS NOT NULL},
	q{{source} || {event_type} = 'shopA'}, q{({event_type}, {source}) IN (('A', 'shop'), ('B', 'bank'))},
	q{{event_type} = {source}}, q{{event_type} = NULL}, q{{event_type} <= 'A'}, q{{event_type} = 'It''s'},
	q{{event_type} IN ('Ä', 'A')}, q{{event_type} = ANY (string_to_array('A,B', ','))}, q{{payload} ? 'k'},
	q{{payload} @> '{"b": true}'}, q{({payload}->>'n')::int > 0}, q{{payload}->>'k' IS NULL},
	q{{payload}->>'k' <> 'a'}, q{{aggregate_version} % 2 = 0}, q{({payload}->>'b')::boolean}, q{{position} % 2 = 0},
	q{{occurred_at} < '2024-03-01'}, q{{occurred_at} >= '2024-02-25 13:00+02'}, q{{payload}->>'k' = 'ä'},
	q{{occurred_at} - '2024-02-25 13:00+02' < '1 day -2 hours'}, q{{payload}->>'k' = 'A' COLLATE blind}, q{({payload}->>'n')::int BETWEEN -1 AND 2},
	q{{aggregate_id} LIKE 'a1%'}, q{jsonb_path_exists({payload}, '$.n ? (@ > 0)')}, q{'true'}, q{false}, q{NULL},
	q{({payload}->>'n')::int IN (1, 2, NULL)}, q{{metadata} <> '{}'});

# Names that somebody might choose, or that the extension might use within.
my @names = (
	'total', 'Total €', 'a"b', "it's", 'select', 'events', 'position', 'key', 'excluded', 'new', 'old', 'e', 't',
	'state', 'source', 'event_type', 'payload', 'count', 'sum', 'first', 'group', 'value', 'x' x 63, '1', ' ', '$1',
	'?column?', 'NULL', 'row', 'cqrs', 'batch');

my $prepared = 0;

sub chance { my ($probability) = @_; return rand() < $probability }
sub pick { return $_[ rand @_ ] }
sub quote_name { my ($name) = @_; $name =~ s/"/""/g; return qq{"$name"} }
sub literal { my ($text) = @_; $text =~ s/'/''/g; return "'$text'" }

# The types and functions that the expressions name, in the schema app, and what makes random events.
sub setup_sql
{
	return <<'SQL';
CREATE SCHEMA app;
GRANT USAGE ON SCHEMA app TO PUBLIC;
SET search_path = app;
CREATE TYPE mood AS ENUM ('sad', 'ok', 'happy');
ALTER TYPE mood ADD VALUE 'bored' BEFORE 'ok';
CREATE TYPE pair AS (n integer, k text);
CREATE DOMAIN few AS integer CHECK (VALUE < 1000);
CREATE DOMAIN needed AS text NOT NULL;
CREATE COLLATION blind (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
CREATE AGGREGATE lowest(integer) (SFUNC = int4smaller, STYPE = integer, SORTOP = <);
CREATE FUNCTION twice(n integer) RETURNS integer LANGUAGE sql IMMUTABLE AS 'SELECT n * 2';
CREATE FUNCTION count_of(j jsonb) RETURNS bigint LANGUAGE plpgsql IMMUTABLE AS
	'BEGIN RETURN (SELECT count(*) FROM jsonb_object_keys(j)); END';

CREATE FUNCTION one_of(VARIADIC choices text[]) RETURNS text LANGUAGE plpgsql VOLATILE AS
	'BEGIN RETURN choices[1 + floor(random() * cardinality(choices))]; END';

-- Each field is missing, null, or has a value of its kind.
CREATE FUNCTION random_payload() RETURNS jsonb LANGUAGE plpgsql VOLATILE AS $$
DECLARE
	result jsonb := jsonb_build_object(
		'k', one_of('a', 'B', 'ab', 'ä', '😀', '', 'a "quoted" \ one'),
		'n', floor(random() * 9)::int - 4,
		's', floor(random() * 60000)::int - 30000,
		'big', one_of('4611686018427387904', '-4611686018427387904', '9223372036854775807', '0', '17'),
		'num', one_of('1', '1.0', '1.00', '-2.5', '0.000000000000000001', '123456789012345678901234567890.5', 'NaN',
			'1e10', CASE WHEN random() < 0.1 THEN 'Infinity' END, CASE WHEN random() < 0.1 THEN '-Infinity' END),
		'd', round((random() * 100)::numeric, 3),
		'f', one_of('0.125', '-0', '0', '-17.5', '99.875', CASE WHEN random() < 0.02 THEN 'NaN' END,
			CASE WHEN random() < 0.02 THEN 'Infinity' END, '3.25'),
		'm', round((random() * 2000 - 1000)::numeric, 2)::text)
	|| jsonb_build_object(
		'iv', one_of('1 mon', '30 days', '720:00:00', '-1 day 02:00', '1 year -3 days 00:00:00.000001', '0'),
		'day', one_of('2024-02-29', '1999-12-31', '0044-03-15 BC', '2024-03-01', 'infinity'),
		'at', one_of('2024-03-10 02:30:00+00', '2024-03-10 02:30:00', '2024-11-03 01:30:00', '1900-01-01 00:00:00.5',
			'-infinity'),
		'b', one_of('true', 'false', 't', 'off'),
		'flag', random() < 0.9,
		'bits', one_of('0000', '1111', '1010', '0111'),
		'e', one_of('sad', 'ok', 'happy', 'bored'),
		'arr', one_of('{}', '{1}', '{1,2}', '{1,NULL}', '{2}', '{{1,2},{3,4}}'),
		'ip', one_of('10.0.0.1', '10.0.0.0/8', '::1'),
		'u', one_of('6f1b7f9c-0000-4000-8000-000000000001', '6F1B7F9C-0000-4000-8000-000000000001',
			'00000000-0000-0000-0000-000000000000'),
		'o', jsonb_build_object('p', floor(random() * 5)),
		'list', to_jsonb(array_fill(1, ARRAY[floor(random() * 3)::int])),
		'mixed', one_of('1', '1.0', '"1"', 'true', '[]', '{"a": [1, 2]}')::jsonb);
	name text;
BEGIN
	IF random() < 0.04 THEN
		result := result || jsonb_build_object('txt',
			(SELECT string_agg(md5(random()::text), '') FROM generate_series(1, 20 + floor(random() * 300)::int)));
	ELSE
		result := result || jsonb_build_object('txt', md5(random()::text));
	END IF;
	FOREACH name IN ARRAY ARRAY(SELECT jsonb_object_keys(result)) LOOP
		IF random() < 0.12 THEN
			result := result - name;
		ELSIF random() < 0.12 AND name NOT IN ('list', 'flag', 'd') THEN
			result[name] := 'null';
		END IF;
	END LOOP;
	RETURN result;
END $$;

-- Aggregates are few, so that groups are met again.
CREATE FUNCTION random_events(many integer) RETURNS TABLE (source text, aggregate_type text, aggregate_id text,
	aggregate_version bigint, event_type text, payload jsonb, metadata jsonb, occurred_at timestamptz)
LANGUAGE plpgsql VOLATILE SET search_path = app AS $$
BEGIN
	FOR i IN 1 .. many LOOP
		RETURN QUERY SELECT one_of('shop', 'bank', 'post'), one_of('order', 'customer'), 'a' || floor(random() * 12),
			CASE WHEN random() < 0.8 THEN floor(random() * 30)::bigint END, one_of('A', 'B', 'C', 'It''s', 'Ä', 'a'),
			CASE WHEN random() < 0.04 THEN '{}' ELSE random_payload() END,
			CASE WHEN random() < 0.5 THEN jsonb_build_object('user', one_of('ann', 'bob', NULL)) ELSE '{}' END,
			'2024-02-20 00:00+00'::timestamptz + floor(random() * 500) * interval '1 hour 7 minutes';
	END LOOP;
END $$;
SQL
}

# A random view: what to select, and how to say it.
sub random_view
{
	my %view = (
		shape => pick(qw(grouped grouped grouped grouped grouped grouped total empty append)),
		alias => pick(('') x 6, 'AS e', 'ev', 'AS "The Events"', 'AS events'),
		spelling => pick(('plain') x 6, 'quoted', 'upper', 'qualified'),
		remark => chance(0.1),
		columns => []);
	my $columns = $view{columns};

	$view{where} = condition(2) if chance(0.5);
	if ($view{shape} eq 'append')
	{
		push @$columns, plain_column() for 1 .. 1 + int rand 6;
		push @$columns, { role => 'plain', sql => '{position}', compare => 'text' } if chance(0.5);
	}
	else
	{
		if ($view{shape} eq 'grouped')
		{
			my %taken;
			push @$columns, key_columns(\%taken) for 1 .. pick(1, 1, 1, 2, 2, 3);
		}
		push @$columns, aggregate_column() for 1 .. ($view{shape} eq 'grouped' && chance(0.04) ? 0 : 1 + int rand 7);
	}
	@$columns = shuffled(@$columns) if chance(0.5);
	name_columns($columns);
	return \%view;
}

# A key of a group, and what is derived from it.
sub key_columns
{
	my ($taken) = @_;
	my ($sql, @derived) = @{ pick(grep { !$taken->{ $_->[0] } } @keys) };
	my $key = { role => 'key', sql => $sql, compare => 'plain', by => pick(qw(expression expression ordinal alias)) };

	$taken->{$sql} = 1;
	return $key if !@derived || chance(0.75);

	# what is derived from an ordinal or an alias is the same expression all the same
	return ($key, { role => 'derived', of => $sql, sql => sprintf(pick(@derived), "($sql)"), compare => 'text' });
}

sub aggregate_column
{
	my ($function, @types) = @{ pick(map { my ($weight, @rest) = @$_; ([@rest]) x $weight } @aggregates) };
	my $type = pick(@types);
	my %column = (role => 'aggregate', function => $function, type => $type, argument => pick(@{ $values{$type} }));

	$column{argument} = '*' if $function eq 'count' && chance(0.6);
	$column{function} = "pg_catalog.$function" if $function !~ /\./ && chance(0.05);
	$column{filter} = condition(1) if chance(0.45);
	$column{form} = pick(qw(array array position));
	$column{at_position} = chance(0.15);
	$column{compare} =
	    $type eq 'inexact' && $function eq 'sum' ? 'round'
	  : $function =~ /cqrs|bit_/ ? 'text'
	  : $function eq 'sum' && $type =~ /^(numeric|interval)$/ ? 'text'
	  : 'plain';
	return \%column;
}

sub plain_column
{
	my $sql = pick(@{ $values{ pick(@any) } });

	return { role => 'plain', sql => $sql, compare => 'text' };
}

sub condition
{
	my ($depth) = @_;

	return pick(@conditions) if $depth == 0 || chance(0.6);
	return 'NOT (' . condition($depth - 1) . ')' if chance(0.15);
	return '(' . condition($depth - 1) . pick(' AND ', ' OR ') . condition($depth - 1) . ')';
}

# Gives columns names, none of them twice. A bare column may keep its own.
sub name_columns
{
	my ($columns) = @_;
	my %taken;
	my $n = 0;

	foreach my $column (@$columns)
	{
		my $own = ($column->{sql} // '') =~ /^\{(\w+)\}$/ ? $1 : undef;

		$n++;
		if (defined $own && !$taken{$own} && chance(0.5))
		{
			$taken{$own} = 1;
			$column->{bare} = 1;
			next;
		}
		my $name = chance(0.25) ? pick(@names) : "c$n";
		$name = "c$n" if $taken{$name}++;
		$column->{name} = $name;
	}
	return;
}

sub shuffled
{
	my @rest = @_;
	my @result;

	push @result, splice @rest, int rand @rest, 1 while @rest;
	return @result;
}

# The query as it is given to cqrs.create_view.
sub render { my ($view) = @_; return select_statement($view, 0) }

# The same query over all events, where the order of the input means nothing.
sub reference
{
	my ($view, $bound) = @_;

	return events_cte($bound) . select_statement($view, 1);
}

# The query itself, to be asked for its columns.
sub shape { my ($view) = @_; return events_cte('true') . select_statement($view, 0) }

sub events_cte
{
	my ($bound) = @_;

	return 'WITH events AS MATERIALIZED (SELECT ' . join(', ', @event_columns)
	  . "\nFROM cqrs.outbox WHERE $bound ORDER BY position)\n";
}

sub select_statement
{
	my ($view, $is_reference) = @_;
	my @columns = @{ $view->{columns} };
	my $ordinal = 0;
	my (@list, @groups);

	foreach my $column (@columns)
	{
		my $sql =
		    $column->{role} ne 'aggregate' ? $column->{sql}
		  : $is_reference ? reference_aggregate($column)
		  : query_aggregate($column);
		my $alias = $column->{bare} ? '' : ' AS ' . quote_name($column->{name});

		$ordinal++;
		push @list, $sql . $alias;
		next if $column->{role} ne 'key';

		# an alias that is also a column's name would mean that column
		my $by_alias = defined $column->{name} && !grep { $_ eq $column->{name} } @event_columns;
		push @groups,
		    $column->{by} eq 'ordinal' ? $ordinal
		  : $column->{by} eq 'alias' && $by_alias ? quote_name($column->{name})
		  : $column->{sql};
	}
	my $sql = 'SELECT ' . join(",\n       ", @list) . "\nFROM events $view->{alias}";
	$sql .= "\nWHERE $view->{where}" if defined $view->{where};
	$sql .= "\nGROUP BY " . join(', ', @groups) if @groups;
	$sql .= "\nGROUP BY ()" if $view->{shape} eq 'empty';
	$sql = "/* from */ $sql -- group by\n;" if $view->{remark} && !$is_reference;
	return with_columns($view, $sql);
}

sub filter { my ($column) = @_; return defined $column->{filter} ? " FILTER (WHERE $column->{filter})" : '' }

# An aggregate as a view's query says it.
sub query_aggregate
{
	my ($column) = @_;
	my $position = $column->{at_position} && $column->{function} =~ /^cqrs/ ? ', {position}' : '';

	return "$column->{function}($column->{argument}$position)" . filter($column);
}

# The first and the last value by position, said without this extension, or by its aggregate of two arguments.
sub reference_aggregate
{
	my ($column) = @_;
	my ($function, $argument, $type) = @$column{qw(function argument type)};
	my $order = $function eq 'cqrs.last' ? ' DESC' : '';

	return "count(*) + 1" if $column->{wrong};
	return "$function($argument)" . filter($column) if $function !~ /^cqrs/;
	return "$function($argument, {position})" . filter($column) if $column->{form} eq 'position';

	# an array of arrays would not do
	my ($as_text, $back) = $type =~ /\[\]$/ ? ('::text', "::$type") : ('', '');
	return "(array_agg(($argument)$as_text ORDER BY {position}$order)" . filter($column) . ")[1]$back";
}

# Names the columns of events as this query does.
sub with_columns
{
	my ($view, $sql) = @_;
	my $names = join '|', @event_columns;
	my $table = $view->{alias} =~ /(\w+|".*")$/ ? $1 : 'events';
	my %name = map {
		$_ => $view->{spelling} eq 'quoted' ? qq{"$_"}
		  : $view->{spelling} eq 'upper' ? uc
		  : $view->{spelling} eq 'qualified' ? "$table.$_"
		  : $_
	} @event_columns;

	$sql =~ s/\{($names)\}/$name{$1}/g;
	return $sql;
}

# A query for the rows of which a read table and a reference have a different number: side, and the row as text.
sub comparison
{
	my ($view, $read_table, $bound) = @_;
	my @columns = @{ $view->{columns} };
	my $names = join ', ', map { "c$_" } 1 .. @columns;
	my $list = join ', ', map {
		my $how = $columns[ $_ - 1 ]{compare};
		$how eq 'text' ? "c$_\::text" : $how eq 'round' ? "round(c$_\::numeric, 6)" : "c$_"
	} 1 .. @columns;
	my $found = "SELECT $list FROM $read_table AS t ($names)";
	my $expected = "SELECT $list FROM (" . reference($view, $bound) . ") AS r ($names)";

	return "SELECT 'found' AS side, d::text AS difference FROM ($found EXCEPT ALL $expected) AS d
		UNION ALL SELECT 'expected', d::text FROM ($expected EXCEPT ALL $found) AS d";
}

# The views that remain of one when a single part of it is taken away.
sub reductions
{
	my ($view) = @_;
	my @columns = @{ $view->{columns} };
	my @result;

	foreach my $i (0 .. $#columns)
	{
		my @rest = grep { $_ != $columns[$i] && ($_->{of} // '') ne ($columns[$i]{sql} // '-') } @columns;

		next if !@rest;
		next if $view->{shape} eq 'grouped' && !grep { $_->{role} eq 'key' } @rest;
		push @result, { %$view, columns => \@rest };
	}
	if ($view->{shape} eq 'grouped' && grep { $_->{role} eq 'aggregate' } @columns)
	{
		push @result, { %$view, shape => 'total', columns => [ grep { $_->{role} eq 'aggregate' } @columns ] };
	}
	foreach my $i (grep { defined $columns[$_]{filter} } 0 .. $#columns)
	{
		my @changed = @columns;

		$changed[$i] = { %{ $columns[$i] }, filter => undef };
		push @result, { %$view, columns => \@changed };
	}
	push @result, { %$view, where => undef } if defined $view->{where};
	push @result, { %$view, alias => '', spelling => 'plain', remark => 0 }
	  if $view->{alias} ne '' || $view->{spelling} ne 'plain' || $view->{remark};
	return @result;
}

# ---------------------------------------------------------------------------------------------------------
# Sessions that publish
# ---------------------------------------------------------------------------------------------------------

# A script of random transactions, of a service that may name its source or of one that may not, under settings.
sub writer_script
{
	my ($deadline, $settings) = @_;
	my $publisher = chance(0.3);

	return "SELECT setseed(" . rand(1) . ");\n"
	  . ($publisher ? "SET SESSION AUTHORIZATION publisher;\n" : '')
	  . "SET lock_timeout = '1s';\nSET synchronous_commit = off;\n$settings"
	  . until_deadline($deadline, map { transaction($publisher) } 1 .. 400);
}

# A script of one transaction, which publishes about the deadline and commits some time later, when perhaps nobody
# publishes any more: what it does to a group is not made good by what comes after it.
sub straggler_script
{
	my ($deadline) = @_;
	my $begin = $deadline - 0.3 + rand 0.4;
	my $name = 'p' . ++$prepared;

	my $sql = "SELECT pg_sleep($begin - extract(epoch FROM clock_timestamp()));\nBEGIN;\n"
	  . insert(0) . insert(0) . nap(0.4);

	return $sql . nap(0.4) . "COMMIT;\n" if chance(0.5);
	return $sql . "PREPARE TRANSACTION '$name';\n" . nap(0.8) . "COMMIT PREPARED '$name';\n";
}

# Lets a script end at a time: before each of its parts it looks at the clock.
sub until_deadline
{
	my ($deadline, @parts) = @_;

	return join '',
	  map { "SELECT clock_timestamp() > to_timestamp($deadline) AS done \\gset\n\\if :done\n\\q\n\\endif\n$_" } @parts;
}

sub transaction
{
	my ($publisher) = @_;
	my $quick = chance(0.6);
	my $sql = 'BEGIN' . pick(('') x 6, ' ISOLATION LEVEL REPEATABLE READ', ' ISOLATION LEVEL SERIALIZABLE') . ";\n";

	foreach (1 .. 1 + rand 3)
	{
		if (chance(0.3))
		{
			$sql .= "SAVEPOINT one;\n" . insert($publisher);
			$sql .= "SAVEPOINT two;\n" . insert($publisher) . pick("ROLLBACK TO two;\n", "RELEASE two;\n")
			  if chance(0.4);
			$sql .= pick("ROLLBACK TO one;\n", "RELEASE one;\n");
		}
		else
		{
			$sql .= insert($publisher);
		}
		$sql .= nap(0.05) if !$quick && chance(0.5);
	}
	$sql .= nap(0.5) if !$quick && chance(0.3);
	return $sql . "ROLLBACK;\n" if chance(0.1);
	return $sql . "COMMIT;\n" if $publisher || !chance(0.08);

	my $name = 'p' . ++$prepared;
	$sql .= "PREPARE TRANSACTION '$name';\n" . nap(0.3);
	return $sql . pick('COMMIT', 'COMMIT', 'ROLLBACK') . " PREPARED '$name';\n";
}

# Some events, by one of the ways to publish.
sub insert
{
	my ($publisher) = @_;
	my $many = pick(1, 1, 1, 2, 2, 3, 5, 15);
	my $columns = ($publisher ? '' : 'source, ')
	  . 'aggregate_type, aggregate_id, aggregate_version, event_type, payload, metadata, occurred_at';
	my $insert = "INSERT INTO cqrs.outbox ($columns) SELECT $columns FROM app.random_events($many);\n";

	return "SELECT cqrs.publish(aggregate_type, aggregate_id, event_type, payload) FROM app.random_events($many);\n"
	  if chance(0.1);
	return "DO 'BEGIN $insert RAISE division_by_zero; EXCEPTION WHEN division_by_zero THEN $insert END';\n"
	  if chance(0.1);
	return $insert;
}

sub nap { my ($longest) = @_; return sprintf "SELECT pg_sleep(%.3f);\n", rand $longest }

1;
