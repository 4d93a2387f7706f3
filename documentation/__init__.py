"""What of docs/ is made by a program: tables of settings, words and commands, drawings of fusions, and the site.

`python -m documentation` writes it anew; no command of the project imports this.
"""
