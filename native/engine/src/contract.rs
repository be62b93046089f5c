//! What the contract forbids a director to say, beyond what decoding finds: checked before anything of a message is obeyed.
use trackbed_contract::engine::{ResourceType, StateDelta, to_engine};
use trackbed_contract::tables::product;

/// The stream is closed for it; what is held stays.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Breach {
    #[error("the director speaks contract version {theirs}, this engine {ours}: nothing of it is obeyed, upgrade the older one", ours = product::CONTRACT_VERSION)]
    Version { theirs: u32 },
    #[error("the director broke the contract: {0}")]
    Malformed(String),
}

/// One stream of a director.
#[derive(Debug, Default)]
pub(crate) struct Conversation {
    welcomed: bool,
}

impl Conversation {
    /// The message, if it may be obeyed.
    pub(crate) fn accept(&mut self, message: Option<to_engine::Message>) -> Result<to_engine::Message, Breach> {
        let malformed = |reason: &str| Err(Breach::Malformed(reason.to_owned()));
        let Some(message) = message else { return malformed("a message of no kind that this version knows") };
        match &message {
            to_engine::Message::Welcome(welcome) if welcome.contract_version != product::CONTRACT_VERSION => {
                return Err(Breach::Version { theirs: welcome.contract_version });
            }
            to_engine::Message::Welcome(welcome) if welcome.settings.is_none() => return malformed("Welcome without settings"),
            to_engine::Message::Welcome(_) => self.welcomed = true,
            _ if !self.welcomed => return malformed("its first message is not Welcome"),
            to_engine::Message::State(delta) => types_known(delta)?,
            _ => {}
        }
        Ok(message)
    }
}

/// `ResourceType` is the only enum that a director sends.
fn types_known(delta: &StateDelta) -> Result<(), Breach> {
    let upserts = delta.upsert.iter().map(|resource| (resource.r#type, &resource.name));
    let removals = delta.remove.iter().map(|key| (key.r#type, &key.name));
    let unknown = |(number, _): &(i32, _)| matches!(ResourceType::try_from(*number), Err(_) | Ok(ResourceType::Unspecified));
    match upserts.chain(removals).find(unknown) {
        None => Ok(()),
        Some((number, name)) => {
            Err(Breach::Malformed(format!("generation {}: resource {name:?} has the unknown type {number}", delta.generation)))
        }
    }
}

#[cfg(test)]
mod tests {
    use trackbed_contract::engine::{InSync, MeshSettings, Resource, ResourceKey, Welcome};

    use super::*;

    fn welcome(contract_version: u32) -> to_engine::Message {
        to_engine::Message::Welcome(Welcome { contract_version, settings: Some(MeshSettings::default()), ..Welcome::default() })
    }

    fn after_welcome(message: Option<to_engine::Message>) -> Result<to_engine::Message, Breach> {
        let mut conversation = Conversation::default();
        conversation.accept(Some(welcome(product::CONTRACT_VERSION))).expect("a welcome");
        conversation.accept(message)
    }

    fn upsert(kind: i32) -> to_engine::Message {
        let known = Resource { r#type: ResourceType::Address.into(), ..Resource::default() };
        to_engine::Message::State(StateDelta {
            upsert: vec![known, Resource { r#type: kind, ..Resource::default() }],
            ..StateDelta::default()
        })
    }

    fn remove(kind: i32) -> to_engine::Message {
        to_engine::Message::State(StateDelta { remove: vec![ResourceKey { r#type: kind, name: "a".into() }], ..StateDelta::default() })
    }

    #[test]
    fn unknown_kinds_and_types_are_a_breach_and_known_ones_are_not() {
        for number in [0, 99, -1, i32::MAX] {
            for message in [upsert(number), remove(number)] {
                assert!(matches!(after_welcome(Some(message)), Err(Breach::Malformed(reason)) if reason.contains(&number.to_string())));
            }
        }
        for number in [1, 2, 3, 4] {
            assert_eq!(after_welcome(Some(upsert(number))), Ok(upsert(number)));
            assert_eq!(after_welcome(Some(remove(number))), Ok(remove(number)));
        }
        assert!(matches!(after_welcome(None), Err(Breach::Malformed(_))));
        assert!(matches!(
            after_welcome(Some(to_engine::Message::Welcome(Welcome { contract_version: 1, ..Welcome::default() }))),
            Err(Breach::Malformed(_))
        ));
    }

    #[test]
    fn nothing_is_obeyed_before_a_welcome_of_our_version() {
        let mut conversation = Conversation::default();
        assert!(matches!(conversation.accept(Some(to_engine::Message::InSync(InSync {}))), Err(Breach::Malformed(_))));
        for theirs in [0, 2, u32::MAX] {
            let breach = conversation.accept(Some(welcome(theirs))).expect_err("another version");
            assert_eq!(breach, Breach::Version { theirs });
            let text = breach.to_string();
            assert!(text.contains(&format!("version {theirs}")) && text.contains("engine 1"), "{text}");
            // Also later, when a setting has changed.
            assert_eq!(after_welcome(Some(welcome(theirs))), Err(Breach::Version { theirs }));
        }
        conversation.accept(Some(welcome(1))).expect("ours");
        conversation.accept(Some(to_engine::Message::InSync(InSync {}))).expect("obeyed");
    }
}
