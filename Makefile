# cqrs_views: built with PGXS. The order of OBJS is the order of the layers in
# README's source tour: a file may include headers of its own layer's
# predecessors only, and "make check-layers" holds it to that.

EXTENSION = cqrs_views
MODULE_big = cqrs_views
DATA = $(wildcard $(EXTENSION)--*.sql)

MODULES_IN_ORDER = \
	guc deadline session settings catalog query row_merge upsert upsert_batch steady table_cache function lock trigger expression event key_set \
	era outbox outbox_walk outbox_read outbox_range outbox_pending horizon read_table projection registry checkpoint dead_letter attachment received parked_row arrival \
	view_expression view_filter view_form view_aggregate view view_merge view_sql view_table view_depend \
	handler handler_event handler_batch reducer reducer_table handler_reducer view_cache handler_view \
	notify apply park retry restore catchup_member catchup_group catchup mode rebuild follow_settings follow reassign format mapping row_json parked_key receive \
	inline_trigger shared shmem shmem_launcher worker launcher \
	define sql_args sql_publish sql_aggregate sql_fold sql_guard sql_projection sql_dead_letter sql_source sql_view sql_progress sql_status \
	cqrs_views

OBJS = $(MODULES_IN_ORDER:%=src/%.o)

REGRESS = $(sort $(patsubst sql/%.sql,%,$(wildcard sql/*.sql)))
ISOLATION = $(sort $(patsubst specs/%.spec,%,$(wildcard specs/*.spec)))
TAP_TESTS = 1

PG_CONFIG ?= pg_config
PGXS := $(shell $(PG_CONFIG) --pgxs)
include $(PGXS)

$(OBJS): $(wildcard src/*.h)

.PHONY: check-layers check-symbols
check-layers:
	PG_CONFIG=$(PG_CONFIG) CC="$(CC)" scripts/check-layers $(MODULES_IN_ORDER)

check-symbols: $(OBJS)
	scripts/check-symbols $(OBJS)
