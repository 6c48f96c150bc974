# Reference values for the statistics of tierwise.measure, from R (base packages and boot).
#
#   Rscript reference.R DIRECTORY
#
# writes measurements.csv, replicates.csv and values.csv there. Those beside this script were written by R 4.2.2 and
# boot 1.3-28.1. Random numbers of R are pinned below, so that another R writes the same files.
# Conover's comparisons are no part of base R; they are written out below from Conover, Practical Nonparametric
# Statistics, 3rd ed.: section 5.8, equation 8 (after Friedman) and section 5.2, equation 6 (after Kruskal-Wallis).

suppressPackageStartupMessages(library(boot))
RNGkind("Mersenne-Twister", "Inversion", "Rejection")
set.seed(20240611)
out <- commandArgs(trailingOnly = TRUE)[1]

measurements <- list()
values <- list()
keep <- function(fixture, group, block, value)
  measurements[[length(measurements) + 1]] <<- data.frame(fixture, group, block, value = sprintf("%.17g", value))
say <- function(fixture, quantity, value)
  values[[length(values) + 1]] <<- data.frame(fixture, quantity, value = sprintf("%.17g", value))

# --- Tables of blocks (rows) and strategies (columns), several measurements in a block counted as their median.

conover_friedman <- function(table) {
  n <- nrow(table); k <- ncol(table)
  r <- t(apply(table, 1, rank))
  a <- sum(r^2); c1 <- n * k * (k + 1)^2 / 4
  sums <- colSums(r)
  t1 <- (k - 1) * sum((sums - n * (k + 1) / 2)^2) / (a - c1)
  df <- (n - 1) * (k - 1)
  spread <- sqrt(2 * n * (a - c1) / df * (1 - t1 / (n * (k - 1))))
  pairs <- combn(k, 2)
  apply(pairs, 2, function(p) 2 * pt(abs(sums[p[1]] - sums[p[2]]) / spread, df, lower.tail = FALSE))
}

friedman_of <- function(fixture, long) {
  keep(fixture, long$group, long$block, long$value)
  table <- tapply(long$value, list(long$block, long$group), median)
  table <- table[complete.cases(table), ]
  test <- friedman.test(table)
  say(fixture, "friedman", test$statistic)
  say(fixture, "friedman_p", test$p.value)
  say(fixture, "friedman_blocks", nrow(table))
  pairs <- combn(colnames(table), 2)
  say(fixture, paste("conover_friedman_holm", pairs[1, ], pairs[2, ], sep = ":"),
      p.adjust(conover_friedman(table), "holm"))
}

long_of <- function(table) {
  colnames(table) <- paste0("s", seq_len(ncol(table)) - 1)
  data.frame(group = rep(colnames(table), each = nrow(table)), block = rep(seq_len(nrow(table)) - 1, ncol(table)),
             value = as.vector(table))
}

latencies <- function(n, k, step) sapply(seq_len(k) - 1, function(i) rlnorm(n) * (1 + step * i) + 0.1)

# Conover, p. 372: four grasses ranked by twelve homeowners; ties inside rows.
friedman_of("grasses", long_of(matrix(c(
  4, 3, 2, 1,  4, 2, 3, 1,  3, 1.5, 1.5, 4,  3, 1, 2, 4,  4, 2, 1, 3,  2, 2, 2, 4,
  1, 3, 2, 4,  2, 4, 1, 3,  3.5, 1, 2, 3.5,  4, 1, 3, 2,  4, 2, 3, 1,  3.5, 1, 2, 3.5), 12, byrow = TRUE)))
friedman_of("blocks-plain", long_of(latencies(30, 5, 0.3)))
friedman_of("blocks-tied", long_of(round(latencies(25, 4, 0.2), 1)))
unequal <- long_of(latencies(40, 4, 0.25))
unequal <- unequal[sample(nrow(unequal), replace = TRUE, size = 520), ]
unequal$value <- round(unequal$value * runif(nrow(unequal), 0.9, 1.1), 2)
friedman_of("blocks-unequal", unequal)

# --- Groups without blocks.

conover_kruskal <- function(value, group) {
  r <- rank(value); n <- length(r); k <- length(unique(group))
  mean_rank <- tapply(r, group, mean); size <- tapply(r, group, length)
  s2 <- (sum(r^2) - n * (n + 1)^2 / 4) / (n - 1)
  h <- (sum(tapply(r, group, sum)^2 / size) - n * (n + 1)^2 / 4) / s2
  pairs <- combn(k, 2)
  apply(pairs, 2, function(p) {
    se <- sqrt(s2 * (n - 1 - h) / (n - k) * (1 / size[p[1]] + 1 / size[p[2]]))
    2 * pt(abs(mean_rank[p[1]] - mean_rank[p[2]]) / se, n - k, lower.tail = FALSE)
  })
}

kruskal_of <- function(fixture, groups) {
  value <- unlist(groups, use.names = FALSE)
  names(groups) <- paste0("s", seq_along(groups) - 1)
  group <- rep(names(groups), lengths(groups))
  keep(fixture, group, seq_along(value) - 1, value)
  test <- kruskal.test(value, factor(group))
  say(fixture, "kruskal", test$statistic)
  say(fixture, "kruskal_p", test$p.value)
  raw <- conover_kruskal(value, group)
  pairs <- combn(names(groups), 2)
  say(fixture, paste("conover", pairs[1, ], pairs[2, ], sep = ":"), raw)
  say(fixture, paste("conover_holm", pairs[1, ], pairs[2, ], sep = ":"), p.adjust(raw, "holm"))
  w <- apply(pairs, 2, function(p)
    unname(suppressWarnings(wilcox.test(groups[[p[1]]], groups[[p[2]]])$statistic))
    * 2 / length(groups[[p[1]]]) / length(groups[[p[2]]]) - 1)
  say(fixture, paste("cliffs_delta", pairs[1, ], pairs[2, ], sep = ":"), w)
}

# Hollander and Wolfe 1973, p. 116.
kruskal_of("mucus", list(c(2.9, 3.0, 2.5, 2.6, 3.2), c(3.8, 2.7, 4.0, 2.4), c(2.8, 3.4, 3.7, 2.2, 2.0)))
groups <- Map(function(n, shift) rnorm(n, 3 + shift) ^ 2 + 0.1, c(12, 30, 7, 21), c(0, 0.25, 0.5, 0.75))
kruskal_of("groups-unequal", groups)
kruskal_of("groups-tied", lapply(groups, function(g) round(g) + 1))

# --- Pairs. Ties and zeros leave the exact distribution: the normal one then, without continuity correction.

wilcoxon_of <- function(fixture, x, y, exact) {
  keep(fixture, rep(c("x", "y"), each = length(x)), rep(seq_along(x) - 1, 2), c(x, y))
  say(fixture, "wilcoxon_p", wilcox.test(x, y, paired = TRUE, exact = exact, correct = FALSE)$p.value)
}
x <- round(runif(20, 0.8, 0.95), 4)
wilcoxon_of("pairs-plain", x, x - rnorm(20, 0.004, 0.01), TRUE)
x <- round(runif(60, 0.8, 0.95), 2)
wilcoxon_of("pairs-tied", x, round(x - rnorm(60, 0.004, 0.02), 2), FALSE)

# --- Right and wrong answers to the same items: both right, only the first, only the second, neither.

for (cells in list(c(80, 2, 11, 7), c(140, 12, 13, 5), c(800, 31, 57, 112), c(90, 40, 40, 30), c(50, 0, 0, 3))) {
  fixture <- paste(c("answers", cells), collapse = "-")
  discordant <- cells[2] + cells[3]
  p <- if (discordant == 0) 1
    else if (discordant <= 25) binom.test(cells[2], discordant)$p.value
    else mcnemar.test(matrix(cells, 2))$p.value
  say(fixture, "mcnemar_p", p)
  n <- sum(cells); right <- c(cells[1] + cells[2], cells[1] + cells[3]); share <- right / n
  # Newcombe 1998, method 10, from Wilson's intervals, which prop.test gives.
  wilson <- sapply(right, function(k) prop.test(k, n, correct = FALSE)$conf.int)
  say(fixture, "newcombe_low", share[1] - share[2] - sqrt((share[1] - wilson[1, 1])^2 + (wilson[2, 2] - share[2])^2))
  say(fixture, "newcombe_high", share[1] - share[2] + sqrt((wilson[2, 1] - share[1])^2 + (share[2] - wilson[1, 2])^2))
}

# --- Adjusted p-values.

p <- c(0.03, 0.01, 0.05, 0.02, 0.04, 0.01, 0.9)
say("holm", paste0("p", seq_along(p) - 1), p.adjust(p, "holm"))

# --- BCa. From the same replicates, so that nothing but the method is compared: the formula (Efron and Tibshirani 1993,
# 14.9, 14.10 and 14.15) with R's quantiles of type 7, and boot.ci, which interpolates on the normal scale.

bca_of <- function(fixture, data, statistic) {
  b <- boot(data, function(d, i) statistic(d[i]), R = 1999)
  left <- sapply(seq_along(data), function(i) statistic(data[-i]))
  influence <- mean(left) - left
  a <- sum(influence^3) / (6 * sum(influence^2)^1.5)
  z0 <- qnorm((mean(b$t < b$t0) + mean(b$t <= b$t0)) / 2)
  z <- z0 + qnorm(c(0.025, 0.975))
  formula <- quantile(b$t, pnorm(z0 + z / (1 - a * z)), type = 7)
  package <- boot.ci(b, type = "bca", L = influence)$bca[4:5]
  keep(fixture, "data", seq_along(data) - 1, data)
  say(fixture, "point", b$t0)
  say(fixture, c("bca_low", "bca_high"), formula)
  say(fixture, c("boot_low", "boot_high"), package)
  data.frame(fixture, value = sprintf("%.17g", as.vector(b$t)))
}
replicates <- rbind(bca_of("bca-mean", rlnorm(40), mean), bca_of("bca-deviation", rexp(25), sd))

# Whole blocks of unequal size drawn by R itself: agreement up to the chance of two draws.
long <- long_of(cbind(rlnorm(60, 0, 0.2), rlnorm(60, 0.15, 0.2)))
long <- long[sample(nrow(long), 300, replace = TRUE), ]
long$value <- long$value * runif(nrow(long), 0.95, 1.05)
keep("bca-blocks", long$group, long$block, long$value)
blocks <- sort(unique(long$block))
ratio <- function(ids, i) {
  drawn <- do.call(rbind, lapply(ids[i], function(id) long[long$block == id, ]))
  median(drawn$value[drawn$group == "s0"]) / median(drawn$value[drawn$group == "s1"])
}
b <- boot(blocks, ratio, R = 9999)
left <- sapply(seq_along(blocks), function(i) ratio(blocks[-i], seq_len(length(blocks) - 1)))
say("bca-blocks", "point", b$t0)
say("bca-blocks", c("boot_low", "boot_high"), boot.ci(b, type = "bca", L = mean(left) - left)$bca[4:5])

for (name in c("measurements", "replicates", "values")) {
  table <- get(name)
  write.csv(if (is.data.frame(table)) table else do.call(rbind, table), file.path(out, paste0(name, ".csv")),
            row.names = FALSE, quote = FALSE)
}
