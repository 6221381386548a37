//! Names: the DNS client against a server on the same loop, the system's resolver, resolvers of
//! one's own, and what holds for all of them.

mod anybody;
mod bounds;
mod client;
mod configuration;
mod server;
mod site;
mod system;
