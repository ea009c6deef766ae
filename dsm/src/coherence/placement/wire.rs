//! How a region's homes are written in control messages: as a set, and what they give the region in runs of
//! equal ones. A hundred alike homes take a few bytes.

/// Homes, which ascend.
pub(super) mod homes {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use crate::coherence::NodeSet;
    use crate::page::NodeId;

    pub(in super::super) fn serialize<S: Serializer>(homes: &[NodeId], to: S) -> Result<S::Ok, S::Error> {
        homes.iter().copied().collect::<NodeSet>().serialize(to)
    }

    pub(in super::super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<NodeId>, D::Error> {
        Ok(NodeSet::deserialize(from)?.iter().collect())
    }
}

/// Quotas, one for each home.
pub(super) mod quotas {
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use super::super::Quota;
    use crate::config::NODES_MAX;

    pub(in super::super) fn serialize<S: Serializer>(quotas: &[Quota], to: S) -> Result<S::Ok, S::Error> {
        let runs = quotas.chunk_by(|one, next| one == next);
        let runs: Vec<(usize, Quota)> = runs.map(|run| (run.len(), run[0])).collect();
        runs.serialize(to)
    }

    pub(in super::super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<Quota>, D::Error> {
        let mut quotas = Vec::new();
        for (count, quota) in Vec::<(usize, Quota)>::deserialize(from)? {
            if count == 0 || count > NODES_MAX - quotas.len() {
                return Err(D::Error::custom("quotas of more homes than there can be"));
            }
            quotas.resize(quotas.len() + count, quota);
        }
        Ok(quotas)
    }
}
