//! What `redis.url` asks for: one server, a master that sentinels name, or a cluster; and how each is connected to.

use std::sync::Arc;

use fred::{
    rustls::{
        ClientConfig, RootCertStore,
        crypto::aws_lc_rs,
        pki_types::{CertificateDer, pem::PemObject},
    },
    types::config::{Config, Server, ServerConfig, TlsConnector},
};

use crate::{broker::BrokerError, config};

/// Where the servers are found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Form {
    /// At this address, for ever.
    One(Server),
    /// Wherever the sentinels say that the master of this name is.
    Sentinels(Vec<Server>, String),
    /// Wherever any of these says that the slots are.
    Cluster(Vec<Server>),
}

/// How to connect.
#[derive(Debug, Clone)]
pub(super) struct Plan {
    pub(super) form: Form,
    pub(super) settings: config::Redis,
    /// Credentials, TLS and database; the server is put in later.
    data: Config,
    /// The same for sentinels.
    sentinel: Config,
}

impl Plan {
    pub(super) fn new(settings: &config::Redis) -> Result<Self, BrokerError> {
        // The error is not shown: it might quote the password.
        let mut data = Config::from_url(settings.url.reveal())
            .map_err(|_| fault("redis.url is not an address of Redis"))?;
        if let Some(path) = &settings.ca_file {
            let tls = data.tls.as_mut().ok_or_else(|| {
                fault("redis.ca_file is set, but redis.url does not ask for TLS (rediss://…)")
            })?;
            tls.connector = trusting(path)?;
        }
        let mut sentinel = data.clone();
        sentinel.database = None;
        let form = match &data.server {
            ServerConfig::Centralized { server } => Form::One(server.clone()),
            ServerConfig::Clustered { hosts, .. } => Form::Cluster(hosts.clone()),
            ServerConfig::Sentinel { hosts, service_name, username, password } => {
                sentinel.username.clone_from(username);
                sentinel.password.clone_from(password);
                Form::Sentinels(hosts.clone(), service_name.clone())
            }
        };
        Ok(Self { form, settings: settings.clone(), data, sentinel })
    }

    /// Whether channels are sharded: in a cluster each message then stays with the server that owns its room.
    pub(super) fn is_cluster(&self) -> bool {
        matches!(self.form, Form::Cluster(_))
    }

    pub(super) fn is_encrypted(&self) -> bool {
        self.data.tls.is_some()
    }

    /// The client's configuration for a server that holds data.
    pub(super) fn data(&self, server: &Server) -> Config {
        at(&self.data, server)
    }

    /// The client's configuration for a sentinel.
    pub(super) fn sentinel(&self, server: &Server) -> Config {
        at(&self.sentinel, server)
    }
}

fn at(config: &Config, server: &Server) -> Config {
    Config { server: ServerConfig::Centralized { server: server.clone() }, ..config.clone() }
}

fn fault(text: &str) -> BrokerError {
    BrokerError::Internal(text.into())
}

/// Trusts what these authorities have signed, and nothing else.
fn trusting(path: &std::path::Path) -> Result<TlsConnector, BrokerError> {
    let unreadable =
        |error: &dyn std::fmt::Display| fault(&format!("redis.ca_file {}: {error}", path.display()));
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(path).map_err(|error| unreadable(&error))? {
        let certificate = certificate.map_err(|error| unreadable(&error))?;
        roots.add(certificate).map_err(|error| unreadable(&error))?;
    }
    if roots.is_empty() {
        return Err(unreadable(&"it holds no certificate in PEM"));
    }
    let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| unreadable(&error))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(config.into())
}

#[cfg(test)]
mod tests {
    use std::{num::NonZeroUsize, time::Duration};

    use super::*;
    use crate::config::Secret;

    fn settings(url: &str) -> config::Redis {
        config::Redis {
            url: Secret::new(url),
            ca_file: None,
            prefix: "rc".to_owned(),
            ready_grace: Duration::ZERO,
            connect_attempts: 1,
            command_timeout: Duration::from_secs(1),
            max_in_flight: NonZeroUsize::MIN,
            changes: 0,
        }
    }

    #[test]
    fn each_form_of_url_is_understood() {
        let form = |url| Plan::new(&settings(url)).unwrap().form;
        assert_eq!(form("redis://a:7000"), Form::One(Server::new("a", 7000)));
        assert_eq!(
            form("redis-sentinel://u:p@a:26379?sentinelServiceName=main&node=b:26380&sentinelPassword=s"),
            Form::Sentinels(vec![Server::new("b", 26380), Server::new("a", 26379)], "main".to_owned())
        );
        assert!(
            matches!(form("redis-cluster://a:7000?node=b:7001"), Form::Cluster(seeds) if seeds.len() == 2)
        );
    }

    #[test]
    fn sentinels_get_their_own_credentials() {
        let url =
            "redis-sentinel://ann:one@a:1?sentinelServiceName=m&sentinelUsername=bob&sentinelPassword=two";
        let plan = Plan::new(&settings(url)).unwrap();
        let server = Server::new("x", 1);
        let (data, sentinel) = (plan.data(&server), plan.sentinel(&server));
        assert_eq!((data.username.as_deref(), data.password.as_deref()), (Some("ann"), Some("one")));
        assert_eq!((sentinel.username.as_deref(), sentinel.password.as_deref()), (Some("bob"), Some("two")));
    }

    #[test]
    fn an_authority_without_tls_or_without_certificates_is_refused() {
        let file = tempfile::NamedTempFile::new().unwrap();
        for url in ["redis://a", "rediss://a"] {
            let wrong = config::Redis { ca_file: Some(file.path().to_owned()), ..settings(url) };
            assert!(matches!(Plan::new(&wrong), Err(BrokerError::Internal(_))), "{url}");
        }
    }
}
