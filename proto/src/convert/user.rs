//! Profiles, consent, users.

use super::item_ids;
use crate::v1;
use docent_types::user::{Consent, Profile, User};
use docent_types::{Error, UserId};

impl From<Consent> for v1::Consent {
    fn from(consent: Consent) -> v1::Consent {
        v1::Consent { collect: consent.collect, recommend: consent.recommend, train: consent.train }
    }
}

impl From<v1::Consent> for Consent {
    fn from(consent: v1::Consent) -> Consent {
        Consent { collect: consent.collect, recommend: consent.recommend, train: consent.train }
    }
}

impl From<Profile> for v1::Profile {
    fn from(profile: Profile) -> v1::Profile {
        v1::Profile { user_id: profile.user_id.into(), attributes: profile.attributes }
    }
}

impl TryFrom<v1::Profile> for Profile {
    type Error = Error;

    /// Checks the id and the attributes.
    fn try_from(profile: v1::Profile) -> Result<Profile, Error> {
        let profile = Profile { user_id: UserId::new(profile.user_id)?, attributes: profile.attributes };
        profile.validate()?;
        Ok(profile)
    }
}

impl From<User> for v1::User {
    fn from(user: User) -> v1::User {
        v1::User {
            user_id: user.user_id.into(),
            attributes: user.attributes,
            consent: Some(user.consent.into()),
            blocks: user.blocks.into_iter().map(String::from).collect(),
            events: user.events,
        }
    }
}

impl TryFrom<v1::User> for User {
    type Error = Error;

    /// Checks the ids.
    fn try_from(user: v1::User) -> Result<User, Error> {
        Ok(User {
            user_id: UserId::new(user.user_id)?,
            attributes: user.attributes,
            consent: user.consent.map(Consent::from).ok_or_else(|| Error::invalid("consent", "consent is missing"))?,
            blocks: item_ids("blocks", user.blocks)?,
            events: user.events,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use docent_types::ItemId;
    use std::collections::BTreeMap;

    #[test]
    fn a_user_survives_the_wire() {
        let user = User {
            user_id: UserId::new("u").unwrap(),
            attributes: BTreeMap::from([("country".to_owned(), "de".to_owned())]),
            consent: Consent { collect: true, recommend: false, train: true },
            blocks: vec![ItemId::new("a").unwrap()],
            events: 7,
        };
        assert_eq!(User::try_from(v1::User::from(user.clone())).unwrap(), user);
        let profile = Profile { user_id: user.user_id, attributes: user.attributes };
        assert_eq!(Profile::try_from(v1::Profile::from(profile.clone())).unwrap(), profile);
    }
}
