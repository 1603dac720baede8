-- What pg8000 1.31 sends. One query after each line of ---; {messages}, {recent} and {classify} are OIDs.
--- rows: 1
select 1
--- rows: 1
-- $1 = '3'
select $1
