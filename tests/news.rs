//! Tests of news.
