//! What people's commands ask a network's process, and what it answers.

use visor_network::GuestRequest;
use visor_network::shared::{Answer, Question};

/// Each is read as the process that gets it does, and what could be read is written and read again.
pub(super) fn run(data: &[u8]) {
    fn again<T: serde::Serialize + serde::de::DeserializeOwned>(data: &[u8]) {
        if let Ok(value) = serde_json::from_slice::<T>(data) {
            let back = serde_json::to_vec(&value).expect("what was read can be written");
            assert!(serde_json::from_slice::<T>(&back).is_ok(), "{}", String::from_utf8_lossy(&back));
        }
    }
    again::<Question>(data);
    again::<GuestRequest>(data);
    again::<Answer>(data);
    if let Ok(Question::Plug(plug)) = serde_json::from_slice::<Question>(data) {
        let _ = plug.vlans.membership(visor_switch::VlanId::new(1).expect("it is one"));
    }
}

pub(super) fn seeds() -> Vec<Vec<u8>> {
    let texts = [
        r#"{"plug":{"guest":"web","mac":"52:54:00:00:00:01","forwards":["8080:80"],"rules":["service http"],"vlans":{"untagged":1,"tagged":[7]},"named":true}}"#,
        r#"{"guest":{"guest":"web","request":{"add-port":"8080:80"}}}"#,
        r#"{"add-port":"127.0.0.1:8080:80/tcp"}"#,
        r#"{"remove-port":{"protocol":"tcp","port":8080}}"#,
        r#"{"why":{"protocol":"tcp","source":"192.0.2.1","destination":["10.0.2.15",80]}}"#,
        r#"{"change-rule":{"scope":"permanent","direction":"inbound","rule":"ping","add":true}}"#,
        r#"{"refused":"no"}"#,
        r#""status""#,
        r#"{"value":[1,{"a":null}]}"#,
    ];
    texts.iter().map(|t| t.as_bytes().to_vec()).collect()
}
