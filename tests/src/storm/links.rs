//! The fleet of a storm: two processes of each service, with proxies on their ways to the servers.

use std::collections::BTreeMap;

use bm_contracts::Topic;
use bm_storage::{Storage, StorageConfig};
use bm_testkit::{Server, TcpProxy, TestTopics, TopicPlan};

use super::fault::{INSTANCES, Instance, Link, Weather};
use crate::fleet::Fleet;
use crate::{Service, storm::fault::Shared};

/// The ways from the processes to the servers.
#[derive(Debug)]
pub(super) struct Links {
    proxies: BTreeMap<Link, TcpProxy>,
    studio: Storage,
}

impl Links {
    /// A broker, a PostgreSQL and a Redis that can be killed, and two processes of each service,
    /// which are ready. The first of each reaches the broker straight: one listener of the broker
    /// has one proxy.
    pub(super) async fn of_a_fleet() -> (Fleet, Self) {
        let ((broker, proxy), postgres) =
            tokio::join!(Server::kafka_behind_proxy(), Server::postgres());
        let topics = TestTopics::create_on(&broker.address(), Topic::ALL.map(TopicPlan::of)).await;
        let reach = [("REDPANDA_BROKERS", broker.address())];
        let mut fleet = Fleet::build(Some(broker), Some(postgres), topics, reach).await;
        fleet.register_game().await;
        let address = fleet.shared(Shared::Postgres).address();
        let to_studio = TcpProxy::to(address).await;
        let url = fleet.database.url_through(&to_studio.address());
        let config = StorageConfig::for_url("studio", &url, 2);
        let mut links = Self {
            proxies: BTreeMap::from([(Link::Broker, proxy), (Link::Studio, to_studio)]),
            studio: Storage::connect_lazily(&config.expect("a test's database URL is one")),
        };
        for instance in Instance::all() {
            let variables = links.variables(&fleet, instance).await;
            let variables: Vec<(&str, &str)> = variables
                .iter()
                .map(|(name, value)| (*name, value.as_str()))
                .collect();
            fleet.start_with(instance.service, &variables);
        }
        fleet.wait_ready().await;
        (fleet, links)
    }

    /// What leads a process through proxies.
    async fn variables(&mut self, fleet: &Fleet, whom: Instance) -> Vec<(&'static str, String)> {
        let mut variables = Vec::new();
        let postgres = fleet.postgres.as_ref().expect("a storm's fleet has one");
        let proxy = TcpProxy::to(postgres.address()).await;
        let url = fleet.database.url_through(&proxy.address());
        variables.push(("RDS_CONNECTION_STRING", url));
        self.proxies.insert(Link::Postgres(whom), proxy);
        if whom.service == Service::Gateway {
            let proxy = TcpProxy::to(fleet.redis.address()).await;
            variables.push(("REDIS_URL", format!("redis://{}", proxy.address())));
            self.proxies.insert(Link::Redis(whom.place), proxy);
        }
        if whom.place == INSTANCES - 1 {
            let proxy = &self.proxies[&Link::Broker];
            variables.push(("REDPANDA_BROKERS", proxy.address()));
        }
        variables
    }

    /// The database as the studio reaches it.
    pub(super) fn studio(&self) -> Storage {
        self.studio.clone()
    }

    /// Makes a network misbehave.
    pub(super) fn disturb(&self, link: Link, weather: Weather) {
        let proxy = &self.proxies[&link];
        match weather {
            Weather::Cut => proxy.cut(),
            Weather::Silent => proxy.silent(),
            Weather::Delayed(by) => proxy.delay(by),
            Weather::AnswersLost => proxy.close_before_reply(),
            Weather::AnswersLostTo(text) => proxy.close_before_reply_to(text.as_bytes()),
        }
    }

    /// Makes it behave.
    pub(super) fn calm(&self, link: Link) {
        self.proxies[&link].pass();
    }

    /// Makes all of them behave.
    pub(super) fn calm_all(&self) {
        self.proxies.values().for_each(TcpProxy::pass);
    }

    /// Answers lost on a way so far.
    pub(super) fn answers_lost(&self, link: Link) -> u64 {
        self.proxies[&link].lost_replies()
    }
}

impl Fleet {
    /// A server of a storm's fleet.
    pub(super) fn shared(&mut self, what: Shared) -> &mut Server {
        match what {
            Shared::Postgres => self.postgres.as_mut().expect("a storm's fleet has one"),
            Shared::Redis => &mut self.redis,
            Shared::Broker => self.broker.as_mut().expect("a storm's fleet has one"),
        }
    }
}
