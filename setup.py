"What the package needs is in settings.ini; edit there, not here."
from configparser import ConfigParser
from setuptools import setup

ini = ConfigParser(delimiters=['='])
ini.read('settings.ini')
extras = {name: reqs.split() for name,reqs in ini['extras'].items()}
setup(install_requires=ini['requirements']['core'].split(), extras_require=extras)
