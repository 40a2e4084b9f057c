//! For other clients of the same brokers: a Sparkplug node asks for what a publisher would connect with.

use rumqttc::MqttOptions;

use crate::config::PublisherConfig;
use crate::error::PublishError;

impl PublisherConfig {
    /// Address, TLS and credentials of each broker, in order, as options of an MQTT 3.1.1 client.
    ///
    /// # Errors
    /// What [`PublisherConfig::check`] would refuse.
    pub fn client_options(&self, client_id: &str) -> Result<Vec<MqttOptions>, PublishError> {
        let connections = self.checked()?;
        let options = connections.into_iter().map(|connection| {
            let host = match connection.broker.is_ipv6() {
                true => format!("[{}]", connection.broker.host()),
                false => connection.broker.host().to_owned(),
            };
            let mut options = MqttOptions::new(client_id, host, connection.broker.port());
            options.set_transport(connection.transport).set_keep_alive(self.keep_alive);
            if let Some(credentials) = connection.credentials {
                options.set_credentials(credentials.user, credentials.password);
            }
            options
        });
        Ok(options.collect())
    }
}
