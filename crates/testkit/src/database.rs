//! A PostgreSQL database of a test's own, empty or with the project's schema.

use std::path::{Path, PathBuf};
use std::time::Duration;

use sqlx::migrate::Migrator;
use sqlx::postgres::PgPoolOptions;
use sqlx::{AssertSqlSafe, Connection, PgConnection, PgPool};

use crate::TestEnv;
use crate::wait::random_suffix;

/// The advisory lock under which the template database is made.
const TEMPLATE_LOCK: i64 = 0x626d_7465_6d70_6c61;

/// A database that is dropped with this value.
#[derive(Debug)]
pub struct TestDatabase {
    server: String,
    name: String,
}

impl TestDatabase {
    /// An empty database on the shared server.
    pub async fn new() -> Self {
        Self::on(&TestEnv::get().postgres).await
    }

    /// A database with the schema of `migrations/` on the shared server.
    pub async fn with_schema() -> Self {
        Self::with_schema_on(&TestEnv::get().postgres).await
    }

    /// An empty database on the server of `url`, a superuser's connection.
    pub async fn on(url: &str) -> Self {
        Self::create(url, "template1").await
    }

    /// A database with the schema of `migrations/` on the server of `url`.
    ///
    /// The first caller migrates a template, which all others copy; a changed migration makes
    /// another template.
    pub async fn with_schema_on(url: &str) -> Self {
        let template = ensure_template(url, &migrations_dir()).await;
        Self::create(url, &template).await
    }

    async fn create(server: &str, template: &str) -> Self {
        let name = format!("bm_test_{}", random_suffix());
        let mut admin = connect(server).await;
        execute(
            &mut admin,
            &format!("CREATE DATABASE {name} TEMPLATE {template}"),
        )
        .await;
        close(admin).await;
        Self {
            server: server.to_owned(),
            name,
        }
    }

    /// Its connection URL.
    pub fn url(&self) -> String {
        with_database(&self.server, &self.name)
    }

    /// The same through another address (`host:port`), such as a [`crate::TcpProxy`]'s.
    pub fn url_through(&self, address: &str) -> String {
        with_address(&self.url(), address)
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A pool of at most `connections` connections to it.
    pub async fn pool(&self, connections: u32) -> PgPool {
        PgPoolOptions::new()
            .max_connections(connections)
            .acquire_timeout(Duration::from_secs(10))
            .connect(&self.url())
            .await
            .unwrap_or_else(|error| panic!("cannot connect to {}: {error}", self.url()))
    }
}

impl Drop for TestDatabase {
    fn drop(&mut self) {
        let server = self.server.clone();
        let statement = format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", self.name);
        crate::wait::block_on_thread(async move {
            // A server that is gone took its databases with it.
            if let Ok(mut admin) = PgConnection::connect(&server).await {
                let _kept_at_worst = sqlx::query(AssertSqlSafe(statement))
                    .execute(&mut admin)
                    .await;
                let _closed = admin.close().await;
            }
        });
    }
}

/// Makes the template database of the migrations in `dir` if it is not there; gives its name.
async fn ensure_template(url: &str, dir: &Path) -> String {
    let migrator = Migrator::new(dir)
        .await
        .unwrap_or_else(|error| panic!("cannot read the migrations in {}: {error}", dir.display()));
    let name = template_name(&migrator);
    let mut admin = connect(url).await;
    if !exists(&mut admin, &name).await {
        sqlx::query("SELECT pg_advisory_lock($1)")
            .bind(TEMPLATE_LOCK)
            .execute(&mut admin)
            .await
            .expect("the template's lock can be waited for");
        // Another process may have made it meanwhile.
        if !exists(&mut admin, &name).await {
            make_template(&mut admin, url, &name, &migrator).await;
        }
    }
    // Ends the session, and the lock with it.
    close(admin).await;
    name
}

async fn make_template(admin: &mut PgConnection, url: &str, name: &str, migrator: &Migrator) {
    let draft = format!("{name}_draft");
    // A killed run may have left one half done.
    execute(
        admin,
        &format!("DROP DATABASE IF EXISTS {draft} WITH (FORCE)"),
    )
    .await;
    execute(admin, &format!("CREATE DATABASE {draft}")).await;
    let mut connection = connect(&with_database(url, &draft)).await;
    migrator
        .run(&mut connection)
        .await
        .unwrap_or_else(|error| panic!("the migrations failed: {error}"));
    close(connection).await;
    // Copying asks that nobody is connected.
    execute(
        admin,
        &format!("ALTER DATABASE {draft} WITH ALLOW_CONNECTIONS false"),
    )
    .await;
    execute(admin, &format!("ALTER DATABASE {draft} RENAME TO {name}")).await;
}

/// Differs for any two sets of migrations.
fn template_name(migrator: &Migrator) -> String {
    // FNV-1a: what matters is that it is the same in every process.
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for migration in migrator.iter() {
        let version = migration.version.to_be_bytes();
        for byte in version.iter().chain(migration.checksum.iter()) {
            hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
    format!("bm_template_{hash:016x}")
}

fn migrations_dir() -> PathBuf {
    crate::process::workspace().join("migrations")
}

async fn exists(admin: &mut PgConnection, name: &str) -> bool {
    sqlx::query_scalar("SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1)")
        .bind(name)
        .fetch_one(admin)
        .await
        .expect("pg_database can be read")
}

async fn connect(url: &str) -> PgConnection {
    PgConnection::connect(url)
        .await
        .unwrap_or_else(|error| panic!("cannot connect to {url}: {error}"))
}

async fn close(connection: PgConnection) {
    connection.close().await.expect("a session can be ended");
}

/// Names are made in this module of letters, digits and underscores: nothing to quote.
async fn execute(connection: &mut PgConnection, statement: &str) {
    sqlx::query(AssertSqlSafe(statement.to_owned()))
        .execute(connection)
        .await
        .unwrap_or_else(|error| panic!("{statement}: {error}"));
}

/// `url` with another database.
fn with_database(url: &str, database: &str) -> String {
    let (start, rest) = split_address(url);
    let address = &rest[..rest.find(['/', '?']).unwrap_or(rest.len())];
    let options = rest.find('?').map_or("", |at| &rest[at..]);
    format!("{start}{address}/{database}{options}")
}

/// `url` with another `host:port`.
fn with_address(url: &str, address: &str) -> String {
    let (start, rest) = split_address(url);
    format!(
        "{start}{address}{}",
        &rest[rest.find(['/', '?']).unwrap_or(rest.len())..]
    )
}

/// What stands before the host, and the rest.
fn split_address(url: &str) -> (&str, &str) {
    let scheme = url.find("://").map_or(0, |at| at + 3);
    let authority_end = url[scheme..]
        .find(['/', '?'])
        .map_or(url.len(), |at| scheme + at);
    let host = url[scheme..authority_end]
        .rfind('@')
        .map_or(scheme, |at| scheme + at + 1);
    url.split_at(host)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_gets_another_database_or_address() {
        for (url, database, address) in [
            (
                "postgres://u:p@h:1/a?x=/y",
                "postgres://u:p@h:1/new?x=/y",
                "postgres://u:p@o:2/a?x=/y",
            ),
            (
                "postgres://u@h:1",
                "postgres://u@h:1/new",
                "postgres://u@o:2",
            ),
            ("postgres://h/a", "postgres://h/new", "postgres://o:2/a"),
        ] {
            assert_eq!(with_database(url, "new"), database);
            assert_eq!(with_address(url, "o:2"), address);
        }
    }

    #[tokio::test]
    async fn a_database_is_there_until_it_is_dropped() {
        let database = TestDatabase::new().await;
        let name = database.name().to_owned();
        let pool = database.pool(2).await;
        sqlx::query("CREATE TABLE t (x int)")
            .execute(&pool)
            .await
            .unwrap();

        let mut admin = connect(&TestEnv::get().postgres).await;
        assert!(exists(&mut admin, &name).await);
        drop(database);
        assert!(!exists(&mut admin, &name).await);
    }

    #[tokio::test]
    async fn databases_with_a_schema_are_copies_that_do_not_touch_each_other() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(
            dir.path().join("0001_things.sql"),
            format!(
                "-- {}\nCREATE TABLE things (id int);",
                crate::unique("this run")
            ),
        )
        .unwrap();
        let url = &TestEnv::get().postgres;

        let together = tokio::join!(
            ensure_template(url, dir.path()),
            ensure_template(url, dir.path())
        );
        let template = together.0;
        assert_eq!(template, together.1);
        let (one, other) = tokio::join!(
            TestDatabase::create(url, &template),
            TestDatabase::create(url, &template)
        );
        sqlx::query("INSERT INTO things VALUES (1)")
            .execute(&one.pool(1).await)
            .await
            .unwrap();
        let count: i64 = sqlx::query_scalar("SELECT count(*) FROM things")
            .fetch_one(&other.pool(1).await)
            .await
            .unwrap();
        assert_eq!(count, 0);

        let mut admin = connect(url).await;
        execute(&mut admin, &format!("DROP DATABASE {template}")).await;
    }

    #[tokio::test]
    async fn the_schema_of_the_project_is_there() {
        let database = TestDatabase::with_schema().await;
        let lanes: i64 = sqlx::query_scalar("SELECT count(*) FROM lanes")
            .fetch_one(&database.pool(1).await)
            .await
            .unwrap();
        assert_eq!(lanes, 0);
    }
}
