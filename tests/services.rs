//! Services elsewhere and the one we offer, over real HTTP.
mod http_judge;
mod rewards;
mod served_teacher;
