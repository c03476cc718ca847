//! What the bench's programs share: the event they all send.

/// Stands in a body where an id is put that no other request has; as long as the id.
pub const ID: &str = "@@@@@@@@@@@@@@@@@@@@@@@@";

/// An event as a game would send it; with an id where `named`.
pub fn event(game: &str, player: usize, kind: &str, named: bool) -> String {
    let id = if named {
        format!(r#""eventId":"{ID}","#)
    } else {
        String::new()
    };
    let now = bm_bootstrap::Clock::system().now();
    format!(
        r#"{{"eventType":"custom","eventName":"{kind}",{id}"userId":"player-{player}","gameId":"{game}","timestamp":"{now}","metadata":{{"map":"forest","weapon":"bow","damage":12.5,"streak":3,"position":{{"x":10,"y":-4}}}}}}"#
    )
}
