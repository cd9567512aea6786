//! `web`: the address of the page, with the token that it needs.

use serde_json::json;

use chalk_core::wire::exit;

use crate::client::segment;
use crate::connect::Server;
use crate::error::Failure;
use crate::output;
use crate::settings::Loaded;

/// Prints the address of the running service's page, for a browser to open. It is not opened here:
/// the token would stand in the process list.
pub(crate) async fn web(loaded: &Loaded, json: bool) -> Result<(), Failure> {
    let Some(server) = Server::running(loaded).await? else {
        let dir = loaded.settings.state.dir.display();
        return Err(Failure::new(exit::UNREACHABLE, "no service is running")
            .why(format!("none was found on {dir}"))
            .hint("start one with `chalk serve`, or name one with --server"));
    };
    let client = server.client();
    // An address that does not answer, or a token that is not taken, is of no use.
    client.get::<chalk_core::wire::Info>("/v1/info").await?;
    let address = page_address(client.url(), client.token());
    if json {
        return output::json(&json!({ "url": format!("{}/", client.url()), "page": address }));
    }
    output::line(&address)
}

/// The page's address with the token in the fragment, which browsers send to nobody.
pub(crate) fn page_address(url: &str, token: &str) -> String {
    format!("{url}/#token={}", segment(token))
}

#[cfg(test)]
mod tests {
    use super::page_address;

    #[test]
    fn tokens_are_encoded() {
        let check = |token: &str, expect: &str| {
            assert_eq!(page_address("http://h:1", token), expect);
        };
        check("abc_-9", "http://h:1/#token=abc_-9");
        check("a+b/c=&#", "http://h:1/#token=a%2Bb%2Fc%3D%26%23");
    }
}
