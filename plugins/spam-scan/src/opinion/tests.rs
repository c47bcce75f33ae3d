//! What is asked, and what the answers come to.
