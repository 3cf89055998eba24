# A reducer in C: it gets flat rows, may return the one that it got, a new one, or NULL. It is compiled here, by the compiler and for the
# server that the extension was built with.

use strict;
use warnings FATAL => 'all';

use FindBin;
use PostgreSQL::Test::Utils;
use Test::More;

use lib "$FindBin::RealBin/lib";
use CqrsTest;

my $pg_config = $ENV{PG_CONFIG} // 'pg_config';
my $folder = PostgreSQL::Test::Utils::tempdir();
append_to_file("$folder/c_reducer.c", <<'C');
#include "postgres.h"

#include "access/htup_details.h"
#include "fmgr.h"
#include "funcapi.h"
#include "utils/builtins.h"

PG_MODULE_MAGIC;
PG_FUNCTION_INFO_V1(c_reduce);

/* counts "Placed", passes over "Ignored", deletes for "Gone" */
Datum
c_reduce(PG_FUNCTION_ARGS)
{
	HeapTupleHeader event = PG_GETARG_HEAPTUPLEHEADER(1);
	bool		isnull;
	char	   *type = TextDatumGetCString(GetAttributeByName(event, "event_type", &isnull));
	TupleDesc	desc;
	Datum		values[2] = {0};
	bool		nulls[2] = {true, false};

	if (strcmp(type, "Gone") == 0)
		PG_RETURN_NULL();
	if (strcmp(type, "Ignored") == 0)
	{
		if (PG_ARGISNULL(0))
			PG_RETURN_NULL();
		PG_RETURN_DATUM(PG_GETARG_DATUM(0));
	}
	if (!PG_ARGISNULL(0))
		values[1] = GetAttributeByName(PG_GETARG_HEAPTUPLEHEADER(0), "n", &isnull);
	values[1] = Int32GetDatum(DatumGetInt32(values[1]) + 1);
	get_call_result_type(fcinfo, NULL, &desc);
	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(desc, values, nulls)));
}
C
my $includes = `$pg_config --includedir-server`;
chomp $includes;
system_or_bail('cc', '-shared', '-fPIC', '-o', "$folder/c_reducer.so", "-I$includes", "$folder/c_reducer.c");

my $node = new_server('c_reducer');
create_database($node, 'postgres');
$node->safe_psql(
	'postgres', qq{
	CREATE TABLE counted (id text PRIMARY KEY, n int);
	CREATE FUNCTION c_reduce(counted, cqrs.event) RETURNS counted LANGUAGE c AS '$folder/c_reducer.so';
	CREATE TABLE written (op text, n bigint);
	CREATE FUNCTION count_written() RETURNS trigger LANGUAGE plpgsql AS
		'BEGIN INSERT INTO written VALUES (TG_OP, 1); RETURN NULL; END';
	CREATE TRIGGER written AFTER INSERT OR UPDATE OR DELETE ON counted FOR EACH ROW EXECUTE FUNCTION count_written();
	SELECT cqrs.create_projection('counted', 'c_reduce(counted,cqrs.event)', '{counted}');
	INSERT INTO cqrs.outbox (aggregate_type, aggregate_id, event_type)
	SELECT 'Order', 'o' || i % 5, CASE i % 7 WHEN 0 THEN 'Ignored' ELSE 'Placed' END FROM generate_series(1, 3000) AS i;
	SELECT cqrs.wait_for('counted', '1 minute')});
is( $node->safe_psql('postgres', 'SELECT id, n FROM counted ORDER BY id'),
	$node->safe_psql(
		'postgres', q{SELECT aggregate_id, count(*) FROM cqrs.outbox WHERE event_type = 'Placed' GROUP BY 1 ORDER BY 1}),
	'rows are counted, and events that change nothing passed over');
$node->safe_psql(
	'postgres', q{
	TRUNCATE written;
	INSERT INTO cqrs.outbox (aggregate_type, aggregate_id, event_type) VALUES
		('Order', 'o1', 'Ignored'), ('Order', 'o1', 'Ignored'), ('Order', 'o2', 'Gone'), ('Order', 'none', 'Ignored'), ('Order', 'o3', 'Gone'),
		('Order', 'o3', 'Placed')});
$node->safe_psql('postgres', q{SELECT cqrs.wait_for('counted', '1 minute')});
is( $node->safe_psql('postgres', q{SELECT op, count(*) FROM written GROUP BY op ORDER BY op}),
	"DELETE|1\nUPDATE|1", 'a row that is returned as it came is not written');
is($node->safe_psql('postgres', q{SELECT n FROM counted WHERE id = 'o3'}), '1', 'a row begins anew after NULL');

$node->stop;
done_testing();
