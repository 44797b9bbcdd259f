//! Columns of text.

/// Rows under a heading, in columns that are as wide as they must be. `right` names the columns, from 0, that are
/// numbers. Ends with a line break.
pub fn table(heading: &[&str], rows: &[Vec<String>], right: &[usize]) -> String {
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        let longest = cells.map(|cell| cell.chars().count()).max().unwrap_or(0);
        longest.max(heading[column].chars().count())
    };
    let widths: Vec<usize> = (0..heading.len()).map(width).collect();
    let mut text = line(heading, &widths, right);
    for row in rows {
        text += &line(row, &widths, right);
    }
    text
}

fn line(cells: &[impl AsRef<str>], widths: &[usize], right: &[usize]) -> String {
    let mut text = String::new();
    for (column, (cell, width)) in cells.iter().zip(widths).enumerate() {
        let (cell, width) = (cell.as_ref(), *width);
        if column > 0 {
            text += "  ";
        }
        text += &match right.contains(&column) {
            true => format!("{cell:>width$}"),
            false => format!("{cell:<width$}"),
        };
    }
    text.truncate(text.trim_end().len());
    text + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_and_numbers_end_at_the_same_place() {
        let rows = [
            vec!["1".into(), "alive".into(), "7".into()],
            vec!["12".into(), "-".into(), "1234".into()],
        ];
        assert_eq!(
            table(&["NODE", "STATE", "LAG"], &rows, &[0, 2]),
            "NODE  STATE   LAG\n   1  alive     7\n  12  -      1234\n"
        );
    }
}
