-- Erasure by author: what the store quotes of one author's texts is blanked every Monday at 04:30, again and again, so
-- that what was judged meanwhile goes too. Labels and scores stay; rationales, and texts and notes of overrides, go.
--
-- Adapt: the list of authors who asked for it (a table, a view or a file) and how texts belong to them. Run it in psql as
-- an admin. Rows have to be erased here before they are deleted where they are stored: the store finds them by their text.
-- Statements in safeguard.queries and commands in cron.job that spell a text out are not found.
SELECT cron.schedule('erase-authors', '30 4 * * mon', $job$
SELECT * FROM safeguard_erase(
    source => 'SELECT body FROM posts WHERE author IN (SELECT author FROM erasures)'
)
$job$);
