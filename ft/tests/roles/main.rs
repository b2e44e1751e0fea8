//! Both roles, connected by nothing but the bytes that they give each other.

mod bad_peers;
mod buffers;
mod divergence;
mod leaving;
mod loss;
mod output;
mod pair;
