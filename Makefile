# What one does here; each target is a script in scripts/, where its options are explained.

.PHONY: help dev test crash crash-mutations bench lint fmt topics sqlx

help:
	@echo 'make dev      run everything on this machine; Ctrl-C stops it, the data is kept in .dev/'
	@echo 'make test     run all tests against servers of their own (ARGS="-p bm-engine" for some)'
	@echo 'make crash    let everything fail at random, and nothing be lost or doubled (SEED=7 MINUTES=5)'
	@echo 'make crash-mutations   leave each guard out in turn, and see that make crash finds it'
	@echo 'make bench    measure how fast it is, on servers of its own (ARGS="ingest --rounds 3" for some)'
	@echo 'make lint     formatting, clippy, SQL data, layers'
	@echo 'make fmt      format the code'
	@echo 'make topics   create missing topics on the configured broker, report what differs'
	@echo 'make sqlx     renew .sqlx after a change of SQL or of migrations/'

dev:
	@BM_PARENT=$$PPID exec scripts/dev

test:
	@exec scripts/test $(ARGS)

crash:
	@BM_CRASH_SEED="$(SEED)" BM_CRASH_MINUTES="$(MINUTES)" exec scripts/crash

crash-mutations:
	@BM_CRASH_SEED="$(SEED)" BM_CRASH_MINUTES="$(MINUTES)" exec scripts/crash-mutations $(ARGS)

bench:
	@exec scripts/bench $(ARGS)

lint:
	@exec scripts/lint

fmt:
	@cargo fmt --all

topics:
	@exec scripts/topics $(ARGS)

sqlx:
	@exec scripts/sqlx-data .sqlx
