//! The `meta` interface, which every node serves: what is here, what it looks like, what it did.

use std::sync::{Arc, Weak};

use super::meta_stubs::{Meta, MetaDescribeError, MetaServer, MethodStatistics, NoSuchInterface, Served};
use super::{Context, Endpoint, Error};

struct Looking {
    // Weak: the endpoint owns its services.
    endpoint: Weak<Endpoint>,
}

/// Serves `Meta` for the endpoint.
pub fn serve_meta(endpoint: &Arc<Endpoint>) {
    endpoint.serve_system(MetaServer(Looking { endpoint: Arc::downgrade(endpoint) }));
}

impl Looking {
    fn endpoint(&self) -> Result<Arc<Endpoint>, Error> {
        self.endpoint.upgrade().ok_or_else(|| Error::remote("the node is leaving"))
    }
}

impl Meta for Looking {
    fn list(&self, _: &Context<'_>) -> Result<Vec<Served>, Error> {
        let describe = |interface: &'static super::Interface| Served {
            name: interface.name.to_owned(),
            version: interface.version,
            hash: interface.hash,
            methods: interface.methods.iter().map(|method| method.name.to_owned()).collect(),
        };
        Ok(self.endpoint()?.interfaces().into_iter().map(describe).collect())
    }

    fn describe(&self, _: &Context<'_>, name: &str) -> Result<String, MetaDescribeError> {
        let interfaces = self.endpoint()?.interfaces();
        match interfaces.into_iter().find(|interface| interface.name == name) {
            Some(interface) => Ok(interface.description.to_owned()),
            None => Err(NoSuchInterface { name: name.to_owned() }.into()),
        }
    }

    fn ping(&self, _: &Context<'_>, payload: &[u8]) -> Result<Vec<u8>, Error> {
        Ok(payload.to_vec())
    }

    fn statistics(&self, _: &Context<'_>) -> Result<Vec<MethodStatistics>, Error> {
        let list = self.endpoint()?.statistics();
        let line = |(method, reading): (&super::Method, super::MethodReading)| MethodStatistics {
            method: format!("{}.{}", method.interface, method.name),
            calls: reading.calls,
            failures: reading.failures,
            busy: reading.busy,
            histogram_us: reading.histogram_us,
        };
        Ok(list.into_iter().map(line).collect())
    }
}
